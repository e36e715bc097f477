/**
 * The files of the backups of a ledger: whole copies in a folder beside it, numbered in the order in which they were
 * made, because the clock of a host may jump. One is made every hour (`backups.ts`), and one before a migration. A
 * backup holds the secrets of the ledger, and only its owner may read it.
 */
import {
  chmodSync,
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
} from "node:fs";
import { readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Database } from "better-sqlite3";
import { DomainError, messageOf } from "../errors.ts";

/** Why a backup was made, which is in its name. */
export type BackupKind = "hourly" | "before-migration";

/** So many of each kind are kept, the newest ones. */
const kept: Readonly<Record<BackupKind, number>> = { hourly: 12, "before-migration": 3 };
const form = /^(\d{8})-(hourly|before-migration)\.db$/;
/** The end of the name of a backup that is being made. */
export const unfinished = ".part";

export interface Backup {
  readonly path: string;
  readonly number: number;
  readonly kind: BackupKind;
}

/** The folder of a ledger's backups. */
export const backupsFolderOf = (ledgerPath: string) => join(dirname(ledgerPath), "backups");

/** The backups in a folder, the newest first; none without the folder. */
export async function listBackups(folder: string): Promise<Backup[]> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  return backupsOf(folder, names);
}

/**
 * Copies a ledger before it is migrated, at a start, when nothing else is served.
 * @throws DomainError `failed_precondition` when there is no copy; the ledger is not migrated then
 */
export function copyBeforeMigration(db: Database, ledgerPath: string): void {
  const folder = backupsFolderOf(ledgerPath);
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const backups = backupsOf(folder, readdirSync(folder));
    const path = join(folder, nameOf(nextNumber(backups), "before-migration"));
    // Two processes that open a ledger at once each make a copy of their own.
    const part = `${path}${unfinished}${process.pid}`;
    try {
      rmSync(part, { force: true });
      closeSync(openSync(part, "wx", 0o600));
      db.prepare("vacuum into ?").run(part);
      chmodSync(part, 0o600);
      syncFileNow(part);
      renameSync(part, path);
      syncFileNow(folder);
    } finally {
      if (existsSync(part)) rmSync(part);
    }
    for (const each of surplus(backups, "before-migration")) rmSync(each.path, { force: true });
  } catch (error) {
    const problem =
      `The ledger ${ledgerPath} cannot be copied to ${folder} before it is migrated: ${messageOf(error)}. ` +
      "Make room there, or make the folder writable.";
    throw new DomainError("failed_precondition", problem, { path: ledgerPath }, { cause: error });
  }
}

function backupsOf(folder: string, names: readonly string[]): Backup[] {
  const found = names.flatMap((name) => {
    const [, number, kind] = form.exec(name) ?? [];
    return number ? [{ path: join(folder, name), number: Number(number), kind: kind as BackupKind }] : [];
  });
  return found.sort((one, other) => other.number - one.number);
}

export const nameOf = (number: number, kind: BackupKind) => `${String(number).padStart(8, "0")}-${kind}.db`;

export const nextNumber = (backups: readonly Backup[]) => (backups[0]?.number ?? 0) + 1;

/** What is too much once another one of a kind was made. */
export const surplus = (backups: readonly Backup[], kind: BackupKind) =>
  backups.filter((each) => each.kind === kind).slice(kept[kind] - 1);

function syncFileNow(path: string): void {
  const descriptor = openSync(path, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
