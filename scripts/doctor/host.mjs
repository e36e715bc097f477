/** The doctor's look at the host: system, packages, processor, memory, disk, folders. */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { availableParallelism, freemem, tmpdir, totalmem } from "node:os";
import { dirname, join, resolve } from "node:path";
import { freeBytes } from "../setup/files.mjs";
import { npmCommand } from "../setup/npm.mjs";
import { installCommand, missingPackages, runtimePackages } from "../setup/packages.mjs";
import { atLeast, nodeRemedy, nodeSupported, systemRemedy } from "../setup/platform.mjs";

/** @typedef {import("./doctor.mjs").Finding} Finding */

const neededQemu = [7, 2];
const neededDiskGiB = 4;
const neededMemoryMiB = 1024;
/** `sun_path` of a Unix socket, with its final zero. */
const socketPathBytes = 108;
/** The longest socket path below the state folder is `/machines/<session id>/agent.sock`, with some room. */
const socketSuffixBytes = 60;
const tmpfsMagic = 0x01021994;

/**
 * @param {import("../setup/roots.mjs").Roots} roots
 * @returns {Finding[]}
 */
export function checkHost(roots) {
  return [
    checkSystem(),
    checkNode(),
    checkNpm(),
    ...checkPackages(),
    checkQemu(),
    checkKvm(),
    checkCores(),
    checkMemory(),
    ...[roots.state, roots.cache].flatMap((folder, index) => checkFolder(index === 0 ? "state" : "cache", folder)),
    checkSocketPaths(roots.state),
    checkPython(),
  ];
}

/** @returns {Finding} */
function checkSystem() {
  const detail = `${process.platform} ${process.arch}`;
  const remedy = systemRemedy();
  if (remedy === undefined) return { level: "ok", what: "system", detail };
  return { level: "failed", what: "system", detail, remedy };
}

/** @returns {Finding} */
export function checkNode() {
  const detail = process.version;
  if (nodeSupported()) return { level: "ok", what: "Node.js", detail };
  return { level: "failed", what: "Node.js", detail, remedy: nodeRemedy };
}

/** @returns {Finding} */
export function checkNpm() {
  const [command, args] = npmCommand(["--version"]);
  const { status, stdout } = spawnSync(command, args, { encoding: "utf8" });
  if (status === 0) return { level: "ok", what: "npm", detail: stdout.trim() };
  return { level: "failed", what: "npm", detail: "not found", remedy: "install npm; it comes with Node.js" };
}

/** @returns {Finding[]} */
function checkPackages() {
  let missing = runtimePackages;
  let remedy = "";
  try {
    missing = missingPackages(runtimePackages);
    remedy = process.getuid?.() === 0 ? "npm start installs the package" : installCommand(missing);
  } catch (error) {
    remedy = String(error instanceof Error && "remedy" in error ? error.remedy : error);
  }
  return runtimePackages.map((wanted) => {
    const what = `package ${wanted.name}`;
    if (!missing.includes(wanted)) return { level: "ok", what, detail: wanted.why };
    return { level: "failed", what, detail: `missing: it ${wanted.why}`, remedy };
  });
}

/** @returns {Finding} */
function checkQemu() {
  const what = "QEMU version";
  const { stdout } = spawnSync("qemu-system-x86_64", ["--version"], { encoding: "utf8" });
  const version = /version (\d+\.\d+(\.\d+)?)/.exec(stdout ?? "")?.[1];
  const wanted = neededQemu.join(".");
  if (version === undefined)
    return { level: "failed", what, detail: "QEMU does not start", remedy: "install qemu-system-x86" };
  if (atLeast(version, neededQemu)) return { level: "ok", what, detail: version };
  return {
    level: "failed",
    what,
    detail: version,
    remedy: `install QEMU ${wanted} or newer (Debian 12 has it)`,
  };
}

/** @returns {Finding} */
function checkKvm() {
  const what = "/dev/kvm";
  try {
    fs.accessSync(what, fs.constants.R_OK | fs.constants.W_OK);
    return { level: "info", what, detail: "can be opened; the daemon tries it by a boot" };
  } catch {
    const detail = fs.existsSync(what) ? "this user may not open it (group kvm)" : "missing";
    return { level: "info", what, detail: `${detail}: QEMU emulates the processor, which is slower` };
  }
}

/** @returns {Finding} */
function checkCores() {
  const cores = availableParallelism();
  if (cores >= 2) return { level: "ok", what: "processor cores", detail: String(cores) };
  return {
    level: "advice",
    what: "processor cores",
    detail: String(cores),
    remedy: "use two or more; one works, slowly",
  };
}

/** @returns {Finding} */
function checkMemory() {
  const available = /MemAvailable:\s*(\d+) kB/.exec(
    fs.existsSync("/proc/meminfo") ? fs.readFileSync("/proc/meminfo", "utf8") : "",
  );
  const mib = Math.floor(available ? Number(available[1]) / 1024 : freemem() / 2 ** 20);
  const detail = `${mib} MiB available of ${Math.floor(totalmem() / 2 ** 20)} MiB`;
  if (mib >= neededMemoryMiB) return { level: "ok", what: "memory", detail };
  return {
    level: "failed",
    what: "memory",
    detail,
    remedy: `free some memory: the first sandboxes need ${neededMemoryMiB} MiB`,
  };
}

/**
 * @param {"state" | "cache"} name
 * @param {string} folder
 * @returns {Finding[]}
 */
function checkFolder(name, folder) {
  const what = `${name} folder`;
  const variable = `FIRKIN_${name.toUpperCase()}_DIR`;
  let existing = folder;
  while (!fs.existsSync(existing)) existing = dirname(existing);
  /** @type {Finding[]} */
  const findings = [];
  try {
    fs.accessSync(existing, fs.constants.W_OK | fs.constants.X_OK);
    findings.push({ level: "ok", what, detail: folder });
  } catch {
    findings.push({
      level: "failed",
      what,
      detail: `${existing} cannot be written to`,
      remedy: `chown the folder, or set ${variable}`,
    });
  }
  if (`${folder}/`.startsWith(`${resolve(tmpdir())}/`) || fs.statfsSync(existing).type === tmpfsMagic) {
    const detail = `${folder} is a temporary folder, which may be emptied or held in memory`;
    findings.push({ level: "advice", what, detail, remedy: `set ${variable} to a folder on a disk` });
  }
  const free = freeBytes(folder) / 2 ** 30;
  const detail = `${free.toFixed(1)} GiB`;
  if (free >= neededDiskGiB) findings.push({ level: "ok", what: `free for ${name}`, detail });
  else {
    const remedy = `free ${neededDiskGiB} GiB, or set ${variable} to a folder on a larger disk`;
    findings.push({ level: "failed", what: `free for ${name}`, detail, remedy });
  }
  return findings;
}

/**
 * @param {string} state
 * @returns {Finding}
 */
function checkSocketPaths(state) {
  const what = "socket paths";
  const longest = Buffer.byteLength(join(state, "x")) - 1 + socketSuffixBytes;
  const detail = `${longest} of ${socketPathBytes} bytes`;
  if (longest < socketPathBytes) return { level: "ok", what, detail };
  return { level: "failed", what, detail, remedy: "set FIRKIN_STATE_DIR to a shorter path" };
}

/** @returns {Finding} */
function checkPython() {
  const { status, stdout } = spawnSync("python3", ["--version"], { encoding: "utf8" });
  return {
    level: "info",
    what: "Python",
    detail: status === 0 ? stdout.trim() : "missing; only E2B's Python SDK needs it",
  };
}
