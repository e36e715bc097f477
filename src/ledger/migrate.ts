/**
 * The migration of a ledger to this version applies the numbered files of `migrations/`, each in a transaction of its
 * own that also notes the file's digest. Files are only ever added to the folder, because a digest covers every byte of
 * a file, comments included.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import type { Database } from "better-sqlite3";
import { DomainError } from "../errors.ts";

/** Correct for src/ledger/ and, because the build copies the files, for dist/src/ledger/. */
const shippedMigrations = new URL("../../migrations/", import.meta.url);

interface AppliedMigration {
  readonly name: string;
  readonly sha256: string;
}

export interface Migration {
  /** The ledger's, for messages. */
  readonly path: string;
  readonly nowMs: number;
  readonly folder?: URL | undefined;
  /** Called before the first new migration of a ledger that has some already. */
  readonly beforeChange: () => void;
}

/**
 * @returns the names of the migrations that were applied now
 * @throws failed_precondition when a newer version wrote the ledger, or a migration was changed after it was applied;
 *   the ledger stays as it was
 */
export function migrate(db: Database, { path, nowMs, folder = shippedMigrations, beforeChange }: Migration): string[] {
  const names = migrationNames(folder);
  db.exec(
    "create table if not exists migrations " +
      "(number integer primary key, name text not null, sha256 text not null, applied_at_ms integer not null) strict",
  );
  refuseNewer(db, path, names.length);
  const appliedCount = db.prepare<[], number>("select count(*) from migrations").pluck().get() ?? 0;
  if (appliedCount > 0 && appliedCount < names.length) beforeChange();
  const find = db.prepare<[number], AppliedMigration>("select name, sha256 from migrations where number = ?");
  const note = db.prepare("insert into migrations (number, name, sha256, applied_at_ms) values (?, ?, ?, ?)");
  return names.filter((name, index) => {
    const sql = readFileSync(new URL(name, folder), "utf8");
    const sha256 = createHash("sha256").update(sql).digest("hex");
    // The look-up is inside the transaction, because another process may have come first.
    const applyOnce = db.transaction(() => {
      const applied = find.get(index + 1);
      if (applied && applied.sha256 !== sha256) throw changed(path, name, applied.name);
      if (applied) return false;
      db.exec(sql);
      note.run(index + 1, name, sha256, nowMs);
      return true;
    });
    return applyOnce.immediate();
  });
}

/** The names in order. The nth one begins with n. */
function migrationNames(folder: URL): string[] {
  const names = readdirSync(folder)
    .filter((name) => /^\d{4}-.+\.sql$/.test(name))
    .sort();
  const wrong = names.find((name, index) => Number.parseInt(name, 10) !== index + 1);
  if (names.length === 0 || wrong) {
    const problem = wrong ? `${wrong} is out of sequence` : "there are none";
    throw new DomainError("failed_precondition", `The migrations in ${folder.pathname} are incomplete: ${problem}.`);
  }
  return names;
}

function refuseNewer(db: Database, path: string, known: number): void {
  const newest = db
    .prepare<[], { number: number; name: string }>("select number, name from migrations order by number desc limit 1")
    .get();
  if (!newest || newest.number <= known) return;
  const message =
    `The ledger ${path} was written by a newer firkin (it has migration ${newest.name}, this version knows ${known}). ` +
    "Start that version or a later one, or choose another state folder.";
  throw new DomainError("failed_precondition", message, { path, migration: newest.name, known });
}

function changed(path: string, name: string, appliedName: string): DomainError {
  const message =
    `Migration ${name} is not the one that the ledger ${path} has (${appliedName}): a migration is never changed after ` +
    "its release. Restore the file, and put the change into a new one.";
  return new DomainError("failed_precondition", message, { path, migration: name });
}
