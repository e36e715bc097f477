/** What a report takes along of this Mac, without the words that say whose it is, in one archive. */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, join } from "node:path";
import { filesBelow } from "../../setup/files.mjs";
import { askSystem } from "../../setup/swift-tools.mjs";

/** @typedef {import("../../setup/swift-tools.mjs").Ask} Ask */

/** Larger files are cut in the middle. A log of that size has its cause near its beginning or its end. */
const maxFileBytes = 8 * 2 ** 20;
const systemLog = [
  ...["show", "--last", "15m", "--info", "--style", "compact", "--predicate"],
  'process CONTAINS "Virtualization" OR process == "firkin-vz" OR process == "ctkd" OR senderImagePath CONTAINS "Virtualization"',
];

/**
 * Copies the logs of set-up, daemon, helpers and consoles.
 * @param {import("../../setup/roots.mjs").Roots} roots
 * @param {readonly string[]} stateFolders
 * @param {string} folder
 */
export function copyLogs(roots, stateFolders, folder) {
  const isLog = (/** @type {string} */ path) => /\.(log|console)$/.test(path);
  for (const [name, from] of [["setup", roots.logs], ...stateFolders.map((path, index) => [`state-${index}`, path])]) {
    if (!fs.existsSync(String(from))) continue;
    for (const path of filesBelow([String(from)], isLog)) {
      const target = join(folder, "logs", String(name), path.slice(String(from).length + 1).replaceAll("/", "_"));
      fs.mkdirSync(dirname(target), { recursive: true });
      fs.copyFileSync(path, target);
    }
  }
}

/**
 * After a failure: the system's log of the last minutes, and crash reports since then.
 * @param {string} folder
 * @param {number} sinceMs
 * @param {{ ask?: Ask, crashFolders?: readonly string[] }} [options]
 */
export function collectFailure(folder, sinceMs, options = {}) {
  const { ask = askSystem, crashFolders = defaultCrashFolders() } = options;
  const { status, output } = ask("log", systemLog);
  fs.writeFileSync(join(folder, "system.log"), status === 0 ? output : `log ended with ${status}: ${output}`);
  for (const from of crashFolders.filter((path) => fs.existsSync(path))) {
    for (const name of fs.readdirSync(from)) {
      const path = join(from, name);
      const isOurs = /^(firkin-vz|com\.apple\.Virtualization|node).*\.ips$/.test(name);
      if (!isOurs || fs.statSync(path).mtimeMs < sinceMs) continue;
      fs.mkdirSync(join(folder, "crashes"), { recursive: true });
      fs.copyFileSync(path, join(folder, "crashes", name));
    }
  }
}

const defaultCrashFolders = () => [homedir(), "/"].map((root) => join(root, "Library/Logs/DiagnosticReports"));

/**
 * Takes private words out of every file, and packs the folder as `<folder>.tar.gz`.
 * @param {string} folder
 * @param {ReadonlyMap<string, string>} words
 * @returns {string} the archive's path
 */
export function packReport(folder, words) {
  for (const path of filesBelow([folder], () => true)) {
    fs.writeFileSync(path, withoutWords(readBounded(path), words));
  }
  const archive = `${folder}.tar.gz`;
  const args = ["-czf", archive, "-C", dirname(folder), basename(folder)];
  const { status, stderr } = spawnSync("tar", args, {
    encoding: "utf8",
    env: { ...process.env, COPYFILE_DISABLE: "1" },
  });
  if (status !== 0) throw new Error(`tar cannot pack ${folder}: ${stderr}`);
  return archive;
}

/** @param {string} path */
function readBounded(path) {
  const { size } = fs.statSync(path);
  if (size <= maxFileBytes) return fs.readFileSync(path, "utf8");
  const half = Buffer.alloc(maxFileBytes / 2);
  const file = fs.openSync(path, "r");
  fs.readSync(file, half, 0, half.length, 0);
  const first = half.toString("utf8");
  fs.readSync(file, half, 0, half.length, size - half.length);
  fs.closeSync(file);
  return `${first}\n… ${size - maxFileBytes} bytes are left out …\n${half.toString("utf8")}`;
}

/**
 * @param {string} text
 * @param {ReadonlyMap<string, string>} words
 */
export function withoutWords(text, words) {
  const longestFirst = [...words].sort(([one], [other]) => other.length - one.length);
  return longestFirst.reduce((rest, [word, stand]) => {
    const literal = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    return rest.replace(new RegExp(`(?<![\\p{L}\\p{N}])${literal}(?![\\p{L}\\p{N}])`, "giu"), stand);
  }, text);
}
