/** The daemon that is measured: the built one, as a process of its own, with a state folder that lasts for one run. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import Database from "better-sqlite3";
import type { MachineRecord } from "../../src/types.ts";
import { E2bClient } from "./e2b-client.ts";
import { processesNaming } from "./processes.ts";

const main = fileURLToPath(new URL("../../src/main.js", import.meta.url));
/** The first start boots, warms and snapshots the base template, under TCG perhaps on a busy host. */
const startDeadlineMs = 240_000;
/** No machine is made ahead of demand, except in the row that measures that. */
const noPool = ["--warm-pool-max", "0"];
/** More than any row uses, because the bench does not measure admission. */
const budgets = ["--max-sandboxes", "200", "--vcpu-budget", "1000", "--memory-budget-mib", "200000"];

/** No process, one that does not listen yet, or one that does. */
type State =
  | { readonly at: "ended" }
  | { readonly at: "starting"; readonly child: ChildProcess }
  | { readonly at: "serving"; readonly child: ChildProcess; readonly client: E2bClient };

export class BenchDaemon implements AsyncDisposable {
  readonly stateDir: string;
  readonly #cacheDir: string;
  readonly #engine: readonly string[];
  #state: State = { at: "ended" };

  private constructor(stateDir: string, cacheDir: string, engine: readonly string[]) {
    this.stateDir = stateDir;
    this.#cacheDir = cacheDir;
    this.#engine = engine;
  }

  /**
   * A daemon that is not started yet. Disposal ends it and all its machines and removes its state.
   * @param engine flags that choose the engine
   */
  static async create(cacheDir: string, engine: readonly string[] = []): Promise<BenchDaemon> {
    await mkdir(cacheDir, { recursive: true });
    // Short, because socket paths are limited.
    return new BenchDaemon(await mkdtemp(join(cacheDir, "b-")), cacheDir, engine);
  }

  get client(): E2bClient {
    return this.#serving().client;
  }

  get pid(): number {
    return this.#serving().child.pid ?? 0;
  }

  /**
   * Starts the daemon. Resolves when it listens.
   * @param pool flags of the warm pool
   * @throws Error with the end of its log when it does not listen
   */
  async start(pool: readonly string[] = noPool): Promise<void> {
    const logPath = join(this.stateDir, "daemon.log");
    const log = openSync(logPath, "a");
    const folders = ["--state-dir", this.stateDir, "--cache-dir", this.#cacheDir];
    const child = spawn(
      process.execPath,
      [main, "serve", "--host", "127.0.0.1", "--port", "0", ...folders, ...this.#engine, ...budgets, ...pool],
      // In a process group of its own, so that a terminal's Ctrl-C reaches the bench alone, which then stops the
      // daemon in order.
      { stdio: ["ignore", "pipe", log], detached: true },
    );
    closeSync(log);
    this.#state = { at: "starting", child };
    try {
      const url = await urlOf(child);
      const apiKey = (await readFile(join(this.stateDir, "api-key"), "utf8")).trim();
      this.#state = { at: "serving", child, client: new E2bClient(url, apiKey) };
    } catch (error) {
      await this.end("SIGKILL");
      const tail = (await readFile(logPath, "utf8")).slice(-2000);
      throw new Error(`the daemon does not start; its log ends:\n${tail}`, { cause: error });
    }
  }

  /** Ends the daemon and waits for its end; its machines go on. */
  async end(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    const state = this.#state;
    if (state.at === "ended") return;
    this.#state = { at: "ended" };
    const { child } = state;
    if (child.exitCode === null && child.signalCode === null) {
      const exited = once(child, "exit");
      child.kill(signal);
      await exited;
    }
    if (state.at === "serving") await state.client.close();
  }

  /** Ends every sandbox and waits until no machine is left. */
  async killAll(): Promise<void> {
    const sandboxes = await this.client.list();
    await Promise.all(sandboxes.map((sandbox) => this.client.kill(sandbox)));
    while (this.machines().length > 0) await new Promise((resolve) => setTimeout(resolve, 20));
  }

  /** The machines that may still be there by the ledger, with their sandbox ids. */
  machines(): { readonly sandboxID: string; readonly machine: MachineRecord }[] {
    const db = new Database(join(this.stateDir, "ledger.db"), { readonly: true });
    try {
      const rows = db
        .prepare("select id, machine from sandboxes where state <> 'terminated' and machine is not null")
        .all() as { id: string; machine: string }[];
      return rows.map(({ id, machine }) => ({ sandboxID: id, machine: JSON.parse(machine) as MachineRecord }));
    } finally {
      db.close();
    }
  }

  /** The machine of a sandbox that runs. */
  machineOf(sandboxID: string): MachineRecord {
    const found = this.machines().find((entry) => entry.sandboxID === sandboxID);
    if (!found) throw new Error(`the ledger has no machine of ${sandboxID}`);
    return found.machine;
  }

  /** The processes of engines that run in the state folder. Their networks end with them. */
  engines(): number[] {
    return processesNaming(this.stateDir).flatMap(({ pid, command }) =>
      /qemu-system|^\/firkin-gvisor/.test(command) ? [pid] : [],
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state.at === "serving") {
      await this.killAll().catch((error: unknown) => {
        process.stderr.write(`the daemon could not end its sandboxes: ${String(error)}\n`);
      });
    }
    await this.end("SIGTERM");
    // Machines are left when the daemon could not end them, or was interrupted while it made its template.
    for (const pid of this.engines()) process.kill(pid, "SIGKILL");
    await rm(this.stateDir, { recursive: true, force: true, maxRetries: 5 });
  }

  #serving() {
    if (this.#state.at !== "serving") throw new Error(`the daemon is not serving but ${this.#state.at}`);
    return this.#state;
  }
}

function urlOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let output = "";
    const timer = setTimeout(
      () => reject(new Error(`it does not listen after ${startDeadlineMs} ms`)),
      startDeadlineMs,
    );
    child.stdout?.on("data", (chunk: Buffer) => {
      output += chunk.toString();
      const url = /listens on (\S+)/.exec(output)?.[1];
      if (url === undefined) return;
      clearTimeout(timer);
      resolve(url);
    });
    child.once("exit", (code, signal) => {
      clearTimeout(timer);
      reject(new Error(`it ended with ${signal ?? code}`));
    });
  });
}
