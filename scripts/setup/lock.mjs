/** One set-up at a time per cache folder. */
import * as fs from "node:fs";
import { join } from "node:path";
import { isAlive } from "./files.mjs";

const POLL_MS = 500;

/**
 * Waits for the lock and returns what gives it back. A holder that is no more does not count.
 * @param {string} folder
 * @param {{ signal: AbortSignal, onWait: (holder: number) => void }} options
 * @returns {Promise<() => void>}
 */
export async function takeSetupLock(folder, { signal, onWait }) {
  fs.mkdirSync(folder, { recursive: true });
  const path = join(folder, "setup.lock");
  for (let told = false; ; ) {
    signal.throwIfAborted();
    try {
      // A link appears with its content in one step; a file would be seen empty first.
      fs.symlinkSync(String(process.pid), path);
      return () => fs.rmSync(path, { force: true });
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== "EEXIST") throw error;
    }
    const holder = readHolder(path);
    if (holder !== undefined && isAlive(holder)) {
      if (!told) onWait(holder);
      told = true;
      await new Promise((done) => setTimeout(done, POLL_MS));
    } else {
      removeIfHeldBy(path, holder);
    }
  }
}

/** @param {string} path */
function readHolder(path) {
  try {
    return Number(fs.readlinkSync(path));
  } catch {
    return undefined;
  }
}

/**
 * Two waiters may find the same dead holder; the slower one must not remove the quicker one's new lock.
 * @param {string} path
 * @param {number | undefined} holder
 */
function removeIfHeldBy(path, holder) {
  const aside = `${path}.${process.pid}`;
  try {
    fs.renameSync(path, aside);
  } catch {
    return;
  }
  if (readHolder(aside) !== holder && !fs.existsSync(path)) fs.renameSync(aside, path);
  else fs.rmSync(aside, { force: true });
}
