/**
 * The ledger's file and its handle. The ledger is the truth about capacity, snapshots, sandboxes and warm entries; this
 * folder holds the only SQL of the project. Its functions are synchronous and take the handle first, so a transaction
 * never spans an await.
 *
 * Durability. A commit is in the write-ahead log when it returns, so `kill -9` at any instruction loses nothing that
 * was committed. Power loss is different: an ordinary commit is not synced (`synchronous=normal`), and the newest ones
 * may be gone afterwards, never in part and never out of order. That is harmless for everything that dies with the
 * power too: running machines, their reservations, samples. Everything that a client was promised to find again (a
 * paused sandbox, a ready snapshot, a template, a setting) is written by {@link Ledger.writeDurably}, which syncs the
 * log, and with it every earlier commit. {@link Ledger.sync} syncs the log without holding up the daemon. A file is
 * removed only after a sync, because power loss must not bring back a row that names a removed file.
 */
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { dirname } from "node:path";
import Database from "better-sqlite3";
import { type Clock, systemClock } from "../clock.ts";
import { DomainError, isDomainError, messageOf } from "../errors.ts";
import type { Logger } from "../log.ts";
import { copyBeforeMigration } from "./backup-files.ts";
import { migrate } from "./migrate.ts";

export interface LedgerOptions {
  readonly log?: Logger;
  /** Dates the rows that the ledger itself dates. */
  readonly clock?: Clock;
  /** How long a write waits for another process that holds the file, blocking this one. */
  readonly busyTimeoutMs?: number;
  /** For tests: where the numbered migrations are. */
  readonly migrationsFolder?: URL;
}

/** Named parameters of a statement. Those that it does not mention are ignored. */
export type Parameters = Readonly<Record<string, string | number | null>>;

/** Only one daemon writes (the state folder is locked), so a wait means that a person reads the file by hand. */
const defaultBusyTimeoutMs = 2_000;
/** The path of a ledger without a file, for tests. Closing it removes it. */
const inMemory = ":memory:";
/** A checkpoint cuts the log back to this size. */
const largestIdleLogBytes = 4 * 1024 * 1024;

/** A copy holds up other work for 256 KiB at a time. */
const pagesPerTurn = 64;

export class Ledger implements Disposable {
  readonly path: string;
  readonly #db: Database.Database;
  readonly #clock: Clock;
  /** Every text is prepared once. The map is bounded, because SQL texts are made of constants of this folder. */
  readonly #statements = new Map<string, Database.Statement<[Parameters]>>();
  /** Whether a transaction is open, and what it will survive. */
  #writing: "no" | "crash" | "power_loss" = "no";
  readonly #commitListeners = new Set<() => void>();

  constructor(path: string, db: Database.Database, clock: Clock) {
    this.path = path;
    this.#db = db;
    this.#clock = clock;
  }

  nowMs(): number {
    return this.#clock.nowMs();
  }

  /** The prepared form of a constant SQL text with named parameters. `Row` is what a row of its result looks like. */
  statement<Row = never>(sql: string): Database.Statement<[Parameters], Row> {
    let statement = this.#statements.get(sql);
    if (!statement) {
      statement = this.#db.prepare<[Parameters]>(sql);
      this.#statements.set(sql, statement);
    }
    return statement as Database.Statement<[Parameters], Row>;
  }

  /**
   * Runs `change` as one transaction that holds the write lock from its start: all of it happens, or nothing. Inside
   * another transaction it becomes a part of that one, and is undone alone when it throws.
   * @throws not_ready when another process keeps the file locked; disk_pressure when no space is left; nothing is
   *   changed
   */
  write<T>(change: () => T): T {
    if (this.#writing !== "no") return this.#db.transaction(change)();
    return this.#writeOutermost("crash", change);
  }

  /** As {@link write}; when it returns, this and all earlier changes survive power loss. Costs a disk sync. */
  writeDurably<T>(change: () => T): T {
    if (this.#writing === "power_loss") return this.#db.transaction(change)();
    if (this.#writing === "crash") {
      throw new DomainError(
        "internal",
        "a durable change inside a transaction that is not: begin it with writeDurably",
      );
    }
    this.#db.pragma("synchronous = full");
    try {
      return this.#writeOutermost("power_loss", change);
    } finally {
      this.#db.pragma("synchronous = normal");
    }
  }

  /** Resolves when every commit so far survives power loss. A thread of the pool waits for the disk. */
  async sync(): Promise<void> {
    if (this.path === inMemory) return;
    // SQLite's locks are on the other two files, so closing a second descriptor of this one drops none.
    const log = await open(`${this.path}-wal`, "r");
    try {
      await log.datasync();
    } finally {
      await log.close();
    }
  }

  /**
   * Copies the ledger into an empty file, some pages at a time, so that other work goes on. The copy has the changes
   * that are committed meanwhile.
   * @throws disk_pressure when there is no space to write
   */
  async copyTo(path: string): Promise<void> {
    try {
      await this.#db.backup(path, { progress: () => pagesPerTurn });
    } catch (error) {
      throw explainWriteFailure(error, path);
    }
  }

  /**
   * Calls `listener` after every committed transaction, until the returned function is called. The listener must be
   * quick, must not throw, and must not write.
   */
  onCommit(listener: () => void): () => void {
    this.#commitListeners.add(listener);
    return () => this.#commitListeners.delete(listener);
  }

  /** Empties the write-ahead log into the file and closes it. Idempotent. */
  close(): void {
    if (!this.#db.open) return;
    try {
      this.#db.pragma("wal_checkpoint(truncate)");
    } finally {
      this.#db.close();
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #writeOutermost<T>(survives: "crash" | "power_loss", change: () => T): T {
    this.#writing = survives;
    let result: T;
    try {
      result = this.#db.transaction(change).immediate();
    } catch (error) {
      throw explainWriteFailure(error, this.path);
    } finally {
      this.#writing = "no";
    }
    for (const listener of this.#commitListeners) listener();
    return result;
  }
}

/**
 * Opens the ledger at `path`, checks its integrity, and applies new migrations after it made a backup. A missing file is
 * made, with mode 0600. `:memory:` opens a ledger without a file.
 * @throws failed_precondition with advice when the ledger cannot be opened, is damaged, or belongs to a newer version;
 *   not_ready when another process holds it
 */
export function openLedger(path: string, options: LedgerOptions = {}): Ledger {
  const { log, clock = systemClock, busyTimeoutMs = defaultBusyTimeoutMs } = options;
  let db: Database.Database | undefined;
  try {
    if (path !== inMemory) makePrivate(path);
    db = new Database(path, { timeout: busyTimeoutMs });
    const journal = db.pragma("journal_mode = wal", { simple: true });
    if (journal !== "wal" && path !== inMemory) throw new Error("its file system cannot hold a write-ahead log");
    db.pragma("synchronous = normal");
    db.pragma("foreign_keys = on");
    db.pragma(`journal_size_limit = ${largestIdleLogBytes}`);
    // Sorts spill to memory and not to TMPDIR, which every user of the host may be able to read.
    db.pragma("temp_store = memory");
    refuseDamaged(db, path);
    const opened = db;
    const applied = migrate(db, {
      path,
      nowMs: clock.nowMs(),
      folder: options.migrationsFolder,
      beforeChange: () => {
        if (path !== inMemory) copyBeforeMigration(opened, path);
      },
    });
    if (applied.length > 0) log?.info({ path, applied }, "ledger migrated");
    return new Ledger(path, db, clock);
  } catch (error) {
    db?.close();
    throw explainOpenFailure(error, path);
  }
}

/**
 * Makes the file, or makes it private. SQLite gives its `-wal` and `-shm` files the same mode. An existing file is
 * never opened here, because closing a second descriptor of it would drop the locks of a connection in this process.
 */
function makePrivate(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  try {
    writeFileSync(path, "", { flag: "wx", mode: 0o600 });
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
    chmodSync(path, 0o600);
  }
}

function refuseDamaged(db: Database.Database, path: string): void {
  const finding = db.pragma("quick_check(1)", { simple: true });
  if (finding !== "ok") throw damaged(path, String(finding));
}

function damaged(path: string, detail: string, options?: ErrorOptions): DomainError {
  const message =
    `The ledger ${path} is damaged (${detail}). Move it, ${path}-wal and ${path}-shm to another folder and start ` +
    "again: the new ledger will be empty and knows nothing of earlier sandboxes.";
  return new DomainError("failed_precondition", message, { path, detail, damaged: true }, options);
}

/** What an error of {@link openLedger} found damaged; undefined when it is about something else. */
export function damageOf(error: unknown): string | undefined {
  if (!isDomainError(error, "failed_precondition") || error.details.damaged !== true) return undefined;
  return String(error.details.detail);
}

function explainOpenFailure(error: unknown, path: string): unknown {
  if (error instanceof DomainError) return error;
  const code = sqliteCode(error);
  if (code.startsWith("SQLITE_NOTADB") || code.startsWith("SQLITE_CORRUPT")) {
    return damaged(path, messageOf(error), { cause: error });
  }
  if (isBusy(code)) return busy(path, error);
  const message = `The ledger ${path} cannot be opened: ${messageOf(error)}`;
  return new DomainError("failed_precondition", message, { path, code }, { cause: error });
}

function explainWriteFailure(error: unknown, path: string): unknown {
  const code = sqliteCode(error);
  if (isBusy(code)) return busy(path, error);
  if (code !== "SQLITE_FULL") return error;
  const message = `No space is left to write the ledger ${path}: free some on its disk.`;
  return new DomainError("disk_pressure", message, { path, code }, { cause: error });
}

function busy(path: string, cause: unknown): DomainError {
  return new DomainError("not_ready", `Another process keeps the ledger ${path} locked: end it.`, { path }, { cause });
}

function isBusy(code: string): boolean {
  return code.startsWith("SQLITE_BUSY") || code === "SQLITE_LOCKED";
}

/** The code of an error of SQLite, or "". */
function sqliteCode(error: unknown): string {
  return error instanceof Database.SqliteError ? error.code : "";
}
