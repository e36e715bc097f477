/**
 * The base template state: a state folder in which a first start has already made the base template. It is made once,
 * before all tests on real machines, and copied, because a first start takes as long as ten tests.
 */
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import Database from "better-sqlite3";
import { type TestedEngine, testedEngine } from "./engine-processes.ts";

const run = promisify(execFile);
/** The variable that names the folder to the processes of the tests. */
const variableOf = (engine: TestedEngine) => `FIRKIN_TEST_PREPARED_STATE_${engine.toUpperCase()}`;

/** Chooses the folder that is copied from now on for daemons of the engine. Its own daemon must have stopped. */
export function usePreparedState(engine: TestedEngine, stateDir: string): void {
  process.env[variableOf(engine)] = stateDir;
}

/** Fills a new state folder. Without a prepared one nothing is done, and the daemon's start there is its first. */
export async function copyPreparedState(stateDir: string, engine = testedEngine): Promise<void> {
  const prepared = process.env[variableOf(engine)];
  if (!prepared) return;
  await run("cp", ["-a", "--sparse=always", "--", `${prepared}/.`, stateDir]);
  // Synced like a daemon's own snapshots, because the blocks that a file takes change when it is written back.
  await run("find", [join(stateDir, "snapshots"), "-type", "f", "-exec", "sync", "{}", "+"]);
  const ledger = new Database(join(stateDir, "ledger.db"));
  try {
    ledger.prepare("update snapshots set folder = replace(folder, ?, ?)").run(prepared, stateDir);
  } finally {
    ledger.close();
  }
}
