/**
 * File operations of the set-up, which never leave something half-made under its final name. They are synchronous,
 * because a step has nothing else to do meanwhile.
 */
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { basename, dirname, join } from "node:path";
import { SetupError } from "./setup-error.mjs";

/** The end of the names of half-made files and folders, with the process id of their maker. */
const partialSuffix = /\.(\d+)\.partial$/;

/**
 * A temporary name in the folder where `path` will be, so that the rename at the end stays on one file system.
 * @param {string} path
 */
export function partialName(path) {
  return join(dirname(path), `${basename(path)}.${process.pid}.partial`);
}

/**
 * Makes `path` whole: `make` writes to a temporary name, which is synced and then renamed. A folder that is already
 * there is replaced.
 * @param {string} path
 * @param {(partial: string) => unknown} make
 */
export async function placeAtomically(path, make) {
  const partial = partialName(path);
  fs.mkdirSync(dirname(path), { recursive: true });
  fs.rmSync(partial, { recursive: true, force: true });
  try {
    await make(partial);
    syncTree(partial);
    if (fs.statSync(partial).isDirectory() && fs.existsSync(path)) {
      const old = `${path}.old.${process.pid}.partial`;
      fs.renameSync(path, old);
      fs.renameSync(partial, path);
      fs.rmSync(old, { recursive: true, force: true });
    } else {
      fs.renameSync(partial, path);
    }
    syncPath(dirname(path));
  } finally {
    fs.rmSync(partial, { recursive: true, force: true });
  }
}

/**
 * @param {string} path
 * @param {unknown} value
 */
export async function writeJson(path, value) {
  await placeAtomically(path, (partial) => fs.writeFileSync(partial, `${JSON.stringify(value, null, 2)}\n`));
}

/**
 * The value of a JSON file, or undefined if there is none or it is not JSON.
 * @param {string} path
 * @returns {any}
 */
export function readJson(path) {
  try {
    return JSON.parse(fs.readFileSync(path, "utf8"));
  } catch (error) {
    if (error instanceof SyntaxError || /** @type {NodeJS.ErrnoException} */ (error).code === "ENOENT")
      return undefined;
    throw error;
  }
}

/** @param {string} path */
function syncTree(path) {
  if (fs.lstatSync(path).isSymbolicLink()) return;
  if (fs.statSync(path).isDirectory()) for (const name of fs.readdirSync(path)) syncTree(join(path, name));
  syncPath(path);
}

/** @param {string} path */
function syncPath(path) {
  const fd = fs.openSync(path, "r");
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

/**
 * Removes the half-made files that interrupted set-ups left in `folder`, but not below it. Those of a live process
 * stay.
 * @param {string} folder
 */
export function sweepPartials(folder) {
  if (!fs.existsSync(folder)) return;
  for (const name of fs.readdirSync(folder)) {
    const pid = partialSuffix.exec(name)?.[1];
    if (pid !== undefined && !isAlive(Number(pid))) fs.rmSync(join(folder, name), { recursive: true, force: true });
  }
}

/**
 * Whether a process with this id exists. The set-up knows no more than an id; the daemon also compares start times.
 * @param {number} pid
 */
export function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code === "EPERM";
  }
}

/**
 * SHA-256 of JSON-able values and file contents, hex. Keys of objects count.
 * @param {...unknown} parts
 */
export function hashOf(...parts) {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(Buffer.isBuffer(part) ? part : (JSON.stringify(part) ?? ""));
  return hash.digest("hex");
}

/**
 * All files below the given files and folders, sorted; `take` chooses by path.
 * @param {readonly string[]} roots
 * @param {(path: string) => boolean} [take]
 * @returns {string[]}
 */
export function filesBelow(roots, take = () => true) {
  /** @type {string[]} */
  const found = [];
  const visit = (/** @type {string} */ path) => {
    const entry = fs.statSync(path, { throwIfNoEntry: false });
    if (entry?.isDirectory()) for (const name of fs.readdirSync(path)) visit(join(path, name));
    else if (entry && take(path)) found.push(path);
  };
  for (const root of roots) visit(root);
  return found.sort();
}

/**
 * Throws unless the file system of `folder` has `bytes` free for what is about to be written.
 * @param {string} folder
 * @param {number} bytes
 */
export function requireFreeSpace(folder, bytes) {
  const free = freeBytes(folder);
  if (free >= bytes) return;
  const gib = (/** @type {number} */ n) => `${(n / 2 ** 30).toFixed(1)} GiB`;
  throw new SetupError(
    `only ${gib(free)} are free in ${folder}; this step needs ${gib(bytes)}`,
    "free some space, or set FIRKIN_CACHE_DIR (and FIRKIN_STATE_DIR) to folders on a larger disk",
  );
}

/**
 * Bytes free for an ordinary user on the file system that holds, or will hold, `folder`.
 * @param {string} folder
 */
export function freeBytes(folder) {
  let existing = folder;
  while (!fs.existsSync(existing)) existing = dirname(existing);
  const { bavail, bsize } = fs.statfsSync(existing);
  return bavail * bsize;
}
