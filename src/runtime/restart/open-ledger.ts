/**
 * The opening of the state folder's ledger. A ledger that is gone, empty or damaged is rebuilt from the newest backup
 * that is whole, and from the copies of sandboxes beside their machines and snapshots, which are newer. The rebuilt
 * ledger gets its name last, so a daemon that dies meanwhile leaves everything to the next one.
 */
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { copyFile, mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Clock } from "../../clock.ts";
import { isDomainError, messageOf } from "../../errors.ts";
import { factsOf } from "../../guest-machine/save.ts";
import { type Backup, backupsFolderOf, listBackups } from "../../ledger/backup-files.ts";
import { damageOf, type Ledger, openLedger } from "../../ledger/open.ts";
import { insertQuarantineEntry } from "../../ledger/quarantine.ts";
import { type FoundSandbox, takeUpSandboxes } from "../../ledger/take-up.ts";
import type { Logger } from "../../log.ts";
import { readSnapshot } from "../../machine/snapshot-files.ts";
import { readSandboxCopies, type SandboxCopy } from "../records/sandbox-copies.ts";

export interface StateFolder {
  readonly ledgerPath: string;
  readonly machinesFolder: string;
  readonly snapshotsFolder: string;
  readonly quarantineFolder: string;
}

/** The files of which a ledger consists. */
const partsOf = (path: string) => [path, `${path}-wal`, `${path}-shm`];

/**
 * Opens the ledger, rebuilt if it has to be.
 * @throws DomainError as `openLedger`: of damage, when there is nothing to rebuild the ledger from
 */
export async function openStateLedger(state: StateFolder, log: Logger, clock: Clock): Promise<Ledger> {
  const { ledgerPath } = state;
  const missing = await whyMissing(ledgerPath);
  if (missing === undefined) {
    try {
      return openLedger(ledgerPath, { log, clock });
    } catch (error) {
      const detail = damageOf(error);
      if (detail === undefined) throw error;
      if (!(await rebuild(state, { what: "damaged", detail }, log, clock))) throw error;
    }
  } else await rebuild(state, { what: missing, detail: "" }, log, clock);
  return openLedger(ledgerPath, { log, clock });
}

/** What happened to a ledger. The detail is for people who look after the host. */
interface Loss {
  readonly what: "gone" | "empty" | "damaged";
  readonly detail: string;
}

async function whyMissing(path: string): Promise<"gone" | "empty" | undefined> {
  try {
    return (await stat(path)).size === 0 ? "empty" : undefined;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return "gone";
  }
}

/** @returns false when there is nothing to rebuild it from, and nothing was touched */
async function rebuild(state: StateFolder, loss: Loss, log: Logger, clock: Clock): Promise<boolean> {
  const { ledgerPath, machinesFolder, snapshotsFolder } = state;
  const backups = await listBackups(backupsFolderOf(ledgerPath));
  const beside = await Promise.all([machinesFolder, snapshotsFolder].map((folder) => readSandboxCopies(folder, log)));
  if (backups.length === 0 && beside.every(({ length }) => length === 0)) {
    const left = await Promise.all([machinesFolder, snapshotsFolder].map(namesIn));
    if (left.flat().length > 0) log.error({ ...loss }, "there is nothing to rebuild the ledger from");
    return false;
  }
  log.error({ ...loss, backups: backups.length }, "the ledger is lost: rebuilding it");
  const rebuilding = `${ledgerPath}.rebuilding`;
  const found = await findSandboxes(beside.flat(), log);
  const { ledger, backup } = await openNewestWhole(backups, rebuilding, log, clock);
  if (!backup && found.length === 0) {
    ledger.close();
    await removeLedger(rebuilding);
    return false;
  }
  let summary: Readonly<Record<string, unknown>>;
  const asideId = randomUUID();
  try {
    const { taken, lost } = takeUpSandboxes(ledger, {
      found,
      folderOf: (id) => join(snapshotsFolder, id),
      isThere: (folder) => existsSync(join(folder, "manifest.json")),
      note: noteFor(loss, backup),
    });
    const reason = `the ledger was ${loss.what} (${loss.detail}), and was rebuilt`;
    const entry = { id: asideId, kind: "folder", name: "ledger.db", reason, machine: null } as const;
    insertQuarantineEntry(ledger, entry);
    summary = { ...loss, backup: backup?.path ?? null, sandboxes: taken, lost };
  } finally {
    ledger.close();
  }
  await setAside(partsOf(ledgerPath), join(state.quarantineFolder, asideId));
  await rename(rebuilding, ledgerPath);
  const lostWithIt = `templates, snapshots, API keys and logs${backup ? " since the backup" : ""}`;
  log.error({ ...summary, lostWithIt }, "the ledger was rebuilt");
  return true;
}

function noteFor({ what }: Loss, backup: Backup | undefined): string {
  const since = backup ? "since the backup that it was rebuilt from" : "of before";
  return (
    `The daemon's ledger was ${what}, and the sandbox was taken up again. Lines of this log ${since} are missing, ` +
    "and so are its latency samples and the key with which its create may be sent again"
  );
}

/** Opens a copy of the newest backup that is whole, or a new ledger when none is. */
async function openNewestWhole(
  backups: readonly Backup[],
  path: string,
  log: Logger,
  clock: Clock,
): Promise<{ readonly ledger: Ledger; readonly backup: Backup | undefined }> {
  for (const backup of backups) {
    await removeLedger(path);
    await copyFile(backup.path, path);
    try {
      return { ledger: openLedger(path, { log, clock }), backup };
    } catch (error) {
      if (!isDomainError(error, "failed_precondition")) throw error;
      log.error({ backup: backup.path, reason: messageOf(error) }, "a backup of the ledger is of no use");
    }
  }
  await removeLedger(path);
  return { ledger: openLedger(path, { log, clock }), backup: undefined };
}

async function removeLedger(path: string): Promise<void> {
  await Promise.all(partsOf(path).map((part) => rm(part, { force: true })));
}

/**
 * What the copies say of each sandbox. That beside its machine counts before that beside the snapshot it was resumed
 * from, and not before that beside the snapshot that this very machine was saved into.
 */
async function findSandboxes(copies: readonly SandboxCopy[], log: Logger): Promise<FoundSandbox[]> {
  const found = new Map<string, FoundSandbox>();
  for (const { record, folder, accessToken } of copies) {
    const { id, machine, state } = record;
    if (machine && state !== "paused") {
      found.set(id, { record: { ...record, machine: { ...machine, folder } }, accessToken });
    }
  }
  for (const { record, folder, accessToken } of copies) {
    const { id, state } = record;
    const known = found.get(id);
    const standing = known?.record.machine ?? null;
    if (state !== "paused" || (standing && standing.sessionId !== record.machine?.sessionId)) continue;
    try {
      const manifest = await readSnapshot(folder);
      const { createdAtMs } = manifest;
      if (known?.continuation && known.continuation.createdAtMs > createdAtMs) continue;
      const continuation = { folder, facts: factsOf(manifest), createdAtMs };
      found.set(id, { record: { ...record, machine: standing }, accessToken, continuation });
    } catch (error) {
      log.error({ sandboxID: id, folder, reason: messageOf(error) }, "a paused sandbox cannot be taken up");
    }
  }
  return [...found.values()];
}

async function setAside(paths: readonly string[], folder: string): Promise<void> {
  await mkdir(dirname(folder), { recursive: true, mode: 0o700 });
  await mkdir(folder, { mode: 0o700 });
  for (const path of paths) {
    await rename(path, join(folder, path.slice(path.lastIndexOf("/") + 1))).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error;
    });
  }
}

async function namesIn(folder: string): Promise<string[]> {
  return readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
}
