/** The doctor's look at a Mac: the system, the screen, the signature of the helper, and the kernel of guests. */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { readJson } from "../setup/files.mjs";
import { toolsRemedy } from "../setup/helper.mjs";
import { atLeast } from "../setup/platform.mjs";

/** @typedef {import("./doctor.mjs").Finding} Finding */
/** @typedef {(command: string, args: readonly string[]) => { status: number | null, output: string }} Ask */

const neededMacos = [14, 0];
const entitlement = "com.apple.security.virtualization";
const buildRemedy = "npm start builds and signs the helper (scripts/setup/build-helper)";

/** @type {Ask} */
const askSystem = (command, args) => {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8" });
  return { status, output: `${stdout ?? ""}${stderr ?? ""}` };
};

/**
 * @param {import("../setup/roots.mjs").Roots} roots
 * @param {Ask} [ask] Runs a program of the system.
 * @returns {Finding[]}
 */
export function checkMac(roots, ask = askSystem) {
  const helper = join(roots.assets, "vz/firkin-vz");
  const kernel = readJson(join(roots.assets, "assets.json"))?.kernel;
  return [checkSystem(ask), checkTools(ask), checkScreen(ask), checkHelper(helper, ask), checkKernel(kernel)];
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
  const what = "Swift";
  const { status, output } = ask("xcode-select", ["--print-path"]);
  if (status === 0) return { level: "ok", what, detail: output.trim() };
  return { level: "failed", what, detail: "Apple's command line tools are missing", remedy: toolsRemedy };
}

/**
 * @param {Ask} ask
 * @returns {Finding}
 */
function checkScreen(ask) {
  const what = "screen";
  const { status, output } = ask("ioreg", ["-n", "Root", "-d1"]);
  if (status !== 0) return { level: "info", what, detail: "ioreg does not tell whether the screen is locked" };
  if (!/"IOConsoleLocked" = Yes|"CGSSessionScreenIsLocked"\s*=\s*Yes/.test(output)) {
    return { level: "ok", what, detail: "unlocked" };
  }
  return {
    level: "advice",
    what,
    detail: "locked: nothing can be saved or restored; warm machines and running sandboxes go on",
    remedy:
      "unlock the screen as the user of the daemon, which must run in that session (a LaunchAgent, not a LaunchDaemon)",
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
