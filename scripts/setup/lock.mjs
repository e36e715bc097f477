/** The lock of the set-up: one set-up runs at a time for each cache folder. */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";

const pollMs = 500;

/**
 * Waits for the lock and returns the function that gives it back. A holder that has ended does not count.
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
      // A link appears with its content in one step; a new file could be read while it is empty.
      fs.symlinkSync(`${process.pid}:${startTime(process.pid)}`, path);
      return () => fs.rmSync(path, { force: true });
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== "EEXIST") throw error;
    }
    const holder = readHolder(path);
    const pid = livingHolder(holder);
    if (pid !== undefined) {
      if (!told) onWait(pid);
      told = true;
      await new Promise((done) => setTimeout(done, pollMs));
    } else {
      removeIfHeldBy(path, holder);
    }
  }
}

/**
 * The process that sets up this cache folder now; undefined when none does.
 * @param {string} folder
 */
export function runningSetUp(folder) {
  return livingHolder(readHolder(join(folder, "setup.lock")));
}

/** @param {string | undefined} holder */
function livingHolder(holder) {
  const [pid, started] = holder?.split(/:(.*)/s) ?? [];
  // A process id alone may belong to another process by now.
  return started !== undefined && startTime(Number(pid)) === started ? Number(pid) : undefined;
}

/**
 * When a process started: in clock ticks since boot (`/proc/PID/stat` field 22), or as ps says it where there is no
 * /proc; undefined if there is none.
 * @param {number} pid
 */
function startTime(pid) {
  if (process.platform !== "linux") return listedStartTime(pid);
  try {
    // Fields are counted from the end of the program's name, which may hold any character.
    return fs
      .readFileSync(`/proc/${pid}/stat`, "utf8")
      .replace(/^.*\) /s, "")
      .split(" ")[19];
  } catch {
    return undefined;
  }
}

/**
 * When a process started, as ps says it in UTC and in English, whatever the time zone and language of the caller: two
 * set-ups must see the same text. Undefined if there is no such process.
 * @param {number} pid
 */
export function listedStartTime(pid) {
  const env = { ...process.env, TZ: "UTC", LC_ALL: "C" };
  const { stdout } = spawnSync("ps", ["-o", "lstart=", "-p", String(pid)], { encoding: "utf8", env });
  return stdout?.trim() || undefined;
}

/** @param {string} path */
function readHolder(path) {
  try {
    return fs.readlinkSync(path);
  } catch {
    return undefined;
  }
}

/**
 * Removes the lock of a holder that has ended. Two waiters may find the same dead holder; the slower one must not
 * remove the lock that the quicker one has taken.
 * @param {string} path
 * @param {string | undefined} holder
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
