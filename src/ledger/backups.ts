/** The hourly backups of a ledger that is in use. */
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { backupsFolderOf, listBackups, nameOf, nextNumber, surplus, unfinished } from "./backup-files.ts";
import type { Ledger } from "./open.ts";

/** Makes a backup unless the newest hourly one is younger than an hour. @returns its path, if one was made */
export async function backUpIfDue(ledger: Ledger, everyMs: number): Promise<string | undefined> {
  const newest = (await listBackups(backupsFolderOf(ledger.path))).find(({ kind }) => kind === "hourly");
  const ageMs = newest ? ledger.nowMs() - (await stat(newest.path)).mtimeMs : everyMs;
  // A backup of the future was made before the clock was set back.
  return ageMs >= everyMs || ageMs < 0 ? backUp(ledger) : undefined;
}

/**
 * Makes an hourly backup beside other work: whole and synced, or none. Older backups make room.
 * @returns its path
 * @throws DomainError `disk_pressure`; what SQLite throws
 */
export async function backUp(ledger: Ledger): Promise<string> {
  const folder = backupsFolderOf(ledger.path);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await removeUnfinished(folder);
  const backups = await listBackups(folder);
  const path = join(folder, nameOf(nextNumber(backups), "hourly"));
  const part = `${path}${unfinished}`;
  try {
    // The file is made first, because SQLite would let others read it.
    await (await open(part, "wx", 0o600)).close();
    await ledger.copyTo(part);
    await syncFile(part);
    await rename(part, path);
    await syncFile(folder);
  } catch (error) {
    await rm(part, { force: true });
    throw error;
  }
  await Promise.all(surplus(backups, "hourly").map((each) => rm(each.path, { force: true })));
  return path;
}

/** Removes what a daemon left that died in the middle of a backup. */
async function removeUnfinished(folder: string): Promise<void> {
  const names = (await readdir(folder)).filter((name) => name.includes(unfinished));
  await Promise.all(names.map((name) => rm(join(folder, name), { force: true })));
}

async function syncFile(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
