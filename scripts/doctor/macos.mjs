/** The doctor's look at a Mac: the system, the screen, the signature of the helper, and the kernel of guests. */
import * as fs from "node:fs";
import { join } from "node:path";
import { readJson } from "../setup/files.mjs";
import { atLeast } from "../setup/platform.mjs";
import { askSwift, askSystem } from "../setup/swift-tools.mjs";

/** @typedef {import("./doctor.mjs").Finding} Finding */
/** @typedef {import("../setup/swift-tools.mjs").Ask} Ask */

const neededMacos = [14, 0];
const entitlement = "com.apple.security.virtualization";
const buildRemedy = "npm start builds and signs the helper (scripts/setup/build-helper)";

/** A session and a socket below the folder of machines: `/machines/<32 letters>/control.sock`. */
const socketTail = `/machines/${"i".repeat(32)}/control.sock`;
const maxSocketPathBytes = 103;

/**
 * @param {import("../setup/roots.mjs").Roots} roots
 * @param {Ask} [ask] Runs a program of the system.
 * @returns {Finding[]}
 */
export function checkMac(roots, ask = askSystem) {
  const helper = join(roots.assets, "vz/firkin-vz");
  const kernel = readJson(join(roots.assets, "assets.json"))?.kernel;
  return [
    checkSystem(ask),
    checkTools(ask),
    checkScreen(ask),
    checkHelper(helper, ask),
    checkKernel(kernel),
    checkStateFolder(roots.state),
    checkVolumes(roots, ask),
    checkBackups(roots, ask),
  ];
}

/**
 * @param {Ask} ask
 * @returns {Finding}
 */
function checkSystem(ask) {
  const what = "macOS";
  const version = ask("sw_vers", ["-productVersion"]).output.trim();
  const processor = ask("uname", ["-m"]).output.trim();
  const detail = `${version} on ${processor}`;
  if (processor !== "arm64") {
    return {
      level: "failed",
      what,
      detail,
      remedy: "use a Mac with Apple silicon, because only that can save machines",
    };
  }
  if (atLeast(version, neededMacos)) return { level: "ok", what, detail };
  return { level: "failed", what, detail, remedy: `update to macOS ${neededMacos[0]} or newer` };
}

/**
 * @param {Ask} ask
 * @returns {Finding}
 */
function checkTools(ask) {
  const { detail, remedy } = askSwift(ask);
  return remedy === undefined
    ? { level: "ok", what: "Swift", detail }
    : { level: "failed", what: "Swift", detail, remedy };
}

/**
 * @param {Ask} ask
 * @returns {Finding}
 */
function checkScreen(ask) {
  const what = "screen";
  const { status, output } = ask("ioreg", ["-n", "Root", "-d1"]);
  const user = ask("id", ["-u"]).output.trim();
  const problem = status === 0 ? screenProblem(output, user) : "ioreg does not tell who is at the screen";
  if (problem === undefined) return { level: "ok", what, detail: "unlocked, and its user is this one" };
  return {
    level: status === 0 ? "advice" : "info",
    what,
    detail: `${problem}: nothing can be saved or restored; warm machines and running sandboxes go on`,
    remedy: "unlock the screen as the user of the daemon. It may run over SSH or as a LaunchAgent of that user",
  };
}

/**
 * Why the screen keeps machines from being saved, as the helper judges it too; undefined when it does not.
 * @param {string} registry What `ioreg -n Root -d1` prints.
 * @param {string} user The user's number.
 */
export function screenProblem(registry, user) {
  const list = /"IOConsoleUsers"\s*=\s*\((.*)\)/.exec(registry)?.[1];
  if (list === undefined) return "nobody is logged in at the screen";
  const sessions = list.match(/\{[^{}]*\}/g) ?? [];
  const own = sessions.filter((session) => new RegExp(`"kCGSSessionUserIDKey"\\s*=\\s*${user}\\b`).test(session));
  if (own.length === 0) return "the user of this process is not logged in at the screen";
  const shown = own.filter((session) => /"kCGSSessionOnConsoleKey"\s*=\s*Yes/.test(session));
  if (shown.length === 0) return "another user is at the screen";
  return shown.every((session) => /"CGSSessionScreenIsLocked"\s*=\s*Yes/.test(session))
    ? "the screen is locked"
    : undefined;
}

/**
 * @param {string} state
 * @returns {Finding}
 */
function checkStateFolder(state) {
  const what = "state folder";
  const bytes = Buffer.byteLength(state + socketTail);
  if (bytes <= maxSocketPathBytes) return { level: "ok", what, detail: state };
  return {
    level: "failed",
    what,
    detail: `${state} is too long: a socket in it would have a path of ${bytes} bytes and macOS allows ${maxSocketPathBytes}`,
    remedy: "choose a shorter one with --state-dir or FIRKIN_STATE_DIR",
  };
}

/**
 * Clones of disks cost nothing on one volume with APFS, and are copies elsewhere.
 * @param {import("../setup/roots.mjs").Roots} roots
 * @param {Ask} ask
 * @returns {Finding}
 */
function checkVolumes(roots, ask) {
  const what = "volumes";
  const remedy = "put the cache and the state on one volume with APFS (FIRKIN_CACHE_DIR, FIRKIN_STATE_DIR)";
  const [cache, state] = [roots.cache, roots.state].map(existingFolder);
  if (fs.statSync(String(cache)).dev !== fs.statSync(String(state)).dev) {
    return { level: "advice", what, detail: `${cache} and ${state} are on two: each start copies a disk`, remedy };
  }
  const { status, output } = ask("diskutil", ["info", deviceOf(String(state), ask)]);
  const type = /File System Personality:\s*(.+)/.exec(output)?.[1]?.trim();
  if (status !== 0 || type === undefined)
    return { level: "info", what, detail: "diskutil does not tell the file system" };
  if (type.includes("APFS")) return { level: "ok", what, detail: type };
  return { level: "advice", what, detail: `${type} clones no files: each start copies a disk`, remedy };
}

/**
 * @param {string} path
 * @param {Ask} ask
 */
function deviceOf(path, ask) {
  const lines = ask("df", ["-P", path]).output.trim().split("\n");
  return lines.at(-1)?.split(/\s+/)[0] ?? "";
}

/**
 * The folder itself, or the nearest one above that is there.
 * @param {string} path
 * @returns {string}
 */
function existingFolder(path) {
  return fs.existsSync(path) ? path : existingFolder(join(path, ".."));
}

/**
 * @param {import("../setup/roots.mjs").Roots} roots
 * @param {Ask} ask
 * @returns {Finding}
 */
function checkBackups(roots, ask) {
  const what = "Time Machine";
  const folders = [roots.cache, roots.state].map(existingFolder);
  const { status, output } = ask("tmutil", ["isexcluded", ...folders]);
  if (status !== 0 || !output.includes("[Included]")) return { level: "ok", what, detail: "copies no machines" };
  return {
    level: "advice",
    what,
    detail: "copies every disk and memory of machines",
    remedy: `tmutil addexclusion ${folders.map((folder) => `"${folder}"`).join(" ")}`,
  };
}

/**
 * @param {string} helper
 * @param {Ask} ask
 * @returns {Finding}
 */
function checkHelper(helper, ask) {
  const what = "helper";
  if (!fs.existsSync(helper)) return { level: "failed", what, detail: `${helper} is missing`, remedy: buildRemedy };
  const signature = ask("codesign", ["--verify", "--strict", helper]);
  if (signature.status !== 0) {
    return {
      level: "failed",
      what,
      detail: `the signature is not valid: ${signature.output.trim()}`,
      remedy: buildRemedy,
    };
  }
  const { output } = ask("codesign", ["--display", "--entitlements", "-", "--xml", helper]);
  if (!output.includes(entitlement))
    return { level: "failed", what, detail: `the signature lacks ${entitlement}`, remedy: buildRemedy };
  return { level: "ok", what, detail: ask(helper, ["--version"]).output.trim() };
}

/**
 * @param {unknown} kernel
 * @returns {Finding}
 */
function checkKernel(kernel) {
  const what = "guest kernel";
  const remedy = "npm start makes the kernel (npx firkin setup, without serving)";
  if (typeof kernel !== "string" || !fs.existsSync(kernel)) {
    return { level: "failed", what, detail: "assets.json names no kernel", remedy };
  }
  const header = Buffer.alloc(64);
  const file = fs.openSync(kernel, "r");
  fs.readSync(file, header, 0, header.length, 0);
  fs.closeSync(file);
  if (header.toString("latin1", 56, 60) === "ARM\u0064") return { level: "ok", what, detail: kernel };
  return { level: "failed", what, detail: `${kernel} is not an uncompressed arm64 Image`, remedy };
}
