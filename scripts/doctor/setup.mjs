/** The doctor's look at firkin itself: the results of the set-up, the template, the port, the daemon. */
import * as fs from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { currentAgent } from "../setup/agent.mjs";
import { assetIndexCurrent } from "../setup/assets.mjs";
import { distCurrent } from "../setup/build.mjs";
import { isAlive, readJson } from "../setup/files.mjs";
import { currentKernel } from "../setup/kernel.mjs";
import { runningSetUp } from "../setup/lock.mjs";
import { npmPackagesCurrent } from "../setup/npm.mjs";
import { currentBaseDisk } from "../setup/rootfs.mjs";

/** @typedef {import("./doctor.mjs").Finding} Finding */

const byStart = "npm start makes this (npx firkin setup, without serving)";
const connectTimeoutMs = 1000;

/**
 * @param {import("../setup/roots.mjs").Roots} roots
 * @param {import("../setup/kernel.mjs").Architecture} [architecture] Of the guests.
 * @returns {Promise<Finding[]>}
 */
export async function checkSetUp(roots, architecture = "amd64") {
  const kernel = currentKernel(roots, architecture);
  const disk = currentBaseDisk(roots, architecture);
  const agent = currentAgent(roots, architecture);
  return [
    made("npm packages", npmPackagesCurrent(roots, false), "as in package-lock.json"),
    made("dist/", distCurrent(roots), "as in the sources"),
    made("guest kernel", kernel !== undefined, kernel?.packageVersion),
    made("guest agent", agent !== undefined, agent?.hash.slice(0, 12)),
    made("base root disk", disk !== undefined, disk?.baseDisk),
    made("asset index", assetIndexCurrent(roots, architecture), join(roots.assets, "assets.json")),
    checkTemplate(roots),
    ...(await checkDaemon(roots)),
  ];
}

/**
 * @param {string} what
 * @param {boolean} current
 * @param {string} [detail]
 * @returns {Finding}
 */
function made(what, current, detail = "") {
  return current
    ? { level: "ok", what, detail }
    : { level: "failed", what, detail: "missing or out of date", remedy: byStart };
}

/**
 * @param {import("../setup/roots.mjs").Roots} roots
 * @returns {Finding}
 */
function checkTemplate(roots) {
  const what = "template base";
  const there = fs.existsSync(join(roots.state, "ledger.db"));
  return {
    level: "info",
    what,
    detail: there
      ? "in the ledger; the daemon renews the template when it is out of date"
      : "the first npm start makes the template",
  };
}

/**
 * @param {import("../setup/roots.mjs").Roots} roots
 * @returns {Promise<Finding[]>}
 */
async function checkDaemon(roots) {
  const address = readJson(join(roots.state, "address.json"));
  if (address !== undefined && isAlive(address.pid) && (await answers(address.url))) {
    return [{ level: "info", what: "daemon", detail: `runs as process ${address.pid} and listens on ${address.url}` }];
  }
  const host = process.env.FIRKIN_HOST || "127.0.0.1";
  const port = Number(process.env.FIRKIN_PORT || 3000);
  /** @type {Finding} */
  const daemon = { level: "info", what: "daemon", detail: whyNotListening(roots) };
  if (!(await answers(`http://${host}:${port}`))) {
    return [daemon, { level: "ok", what: "port", detail: `${host}:${port} is free` }];
  }
  const listing = process.platform === "darwin" ? `lsof -nP -iTCP:${port} -sTCP:LISTEN` : `ss -ltnp 'sport = ${port}'`;
  const remedy = `end the program that listens there (${listing}), or choose another port: npm start -- --port N`;
  return [daemon, { level: "failed", what: "port", detail: `${host}:${port} is taken`, remedy }];
}

/** @param {import("../setup/roots.mjs").Roots} roots */
function whyNotListening(roots) {
  const setUp = runningSetUp(roots.cache);
  if (setUp !== undefined) return `the set-up runs as process ${setUp}; npm start listens after it`;
  const starting = Number(readJson(join(roots.state, "daemon.pid")));
  if (starting > 0 && isAlive(starting)) return `process ${starting} starts, and does not listen yet`;
  return "not running; npm start starts the daemon";
}

/**
 * Whether something accepts connections there.
 * @param {string} url
 * @returns {Promise<boolean>}
 */
function answers(url) {
  const { hostname, port } = new URL(url);
  return new Promise((done) => {
    const socket = connect({ host: hostname, port: Number(port), timeout: connectTimeoutMs });
    const end = (/** @type {boolean} */ answer) => {
      socket.destroy();
      done(answer);
    };
    socket.once("connect", () => end(true));
    socket.once("error", () => end(false));
    socket.once("timeout", () => end(false));
  });
}
