/**
 * The lock of a state folder lets one daemon use it. It is SQLite's own lock on a file, held for the life of the
 * process. The kernel drops it however the process ends, so it is never stale, and two daemons never both win.
 */
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { DomainError } from "../errors.ts";

const lockFile = "daemon.lock";
const holderFile = "daemon.pid";

/**
 * Takes the lock of a state folder. Disposing of it gives it back.
 * @throws DomainError `invalid_state` naming the process that holds it
 */
export function lockState(stateDir: string): Disposable {
  const path = join(stateDir, lockFile);
  const holder = join(stateDir, holderFile);
  const db = new Database(path, { timeout: 0 });
  try {
    chmodSync(path, 0o600);
    db.exec("begin exclusive");
  } catch (error) {
    db.close();
    if (!(error instanceof Database.SqliteError && error.code.startsWith("SQLITE_BUSY"))) throw error;
    const problem = `Another firkin daemon (pid ${readHolder(holder)}) uses ${stateDir}`;
    throw new DomainError("invalid_state", `${problem}. Stop it, or give this one its own --state-dir.`);
  }
  writeFileSync(holder, `${process.pid}\n`, { mode: 0o600 });
  return { [Symbol.dispose]: () => void db.close() };
}

function readHolder(path: string): string {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return "unknown"; // The holder has the lock and has not written its pid yet.
  }
}
