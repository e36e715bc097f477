/**
 * The fault world: a home whose daemon is broken again and again. It has a subject that every fault is about, a
 * bystander that must never notice, and a sleeper that stays paused. Each is a sandbox with a counter in its memory,
 * which shows whether the sandbox goes on.
 */
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import Database from "better-sqlite3";
import { Sandbox } from "e2b";
import { expect } from "vitest";
import { endProcess, identifyProcess } from "../../../src/machine/processes.ts";
import type { MachineRecord, ProcessIdentity } from "../../../src/types.ts";
import { type TestedEngine, testedEngine } from "../daemon/engine-processes.ts";
import { type DaemonHome, makeDaemonHome } from "../daemon/home.ts";
import { killAllSandboxes, type RealDaemon } from "../daemon/real-daemon.ts";
import { call, connectionTo, post } from "../daemon/requests.ts";
import { count, startCounter } from "../guest/memory-counter.ts";
import { leftoversOf } from "./leftovers.ts";

export type PoolSize = 0 | 1;

interface CountedSandbox {
  readonly id: string;
  /** The last value of its counter. */
  value: number;
}

export type SubjectState = "running" | "paused" | "gone";

/** How long a daemon may take to come to a step. */
export const stepDeadlineMs = 150_000;

export class FaultWorld implements AsyncDisposable {
  readonly home: DaemonHome;
  #daemon: RealDaemon | undefined;
  #pool: PoolSize = 0;
  #subject: CountedSandbox | undefined;
  #bystander: CountedSandbox | undefined;
  #sleeper: CountedSandbox | undefined;

  private constructor(home: DaemonHome) {
    this.home = home;
  }

  /** @param engine Default: that of the tests with real machines. */
  static async open(engine: TestedEngine = testedEngine): Promise<FaultWorld> {
    const world = new FaultWorld(await makeDaemonHome({ engine }));
    try {
      await world.start(0);
      world.#bystander = await world.makeCounted();
      world.#sleeper = await world.makeCounted();
      await world.post(`/sandboxes/${world.#sleeper.id}/pause`);
      return world;
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
  }

  get daemon(): RealDaemon {
    if (!this.#daemon) throw new Error("there is no daemon");
    return this.#daemon;
  }

  get subject(): CountedSandbox {
    if (!this.#subject) throw new Error("there is no subject");
    return this.#subject;
  }

  async start(pool: PoolSize, args: readonly string[] = []): Promise<void> {
    this.#pool = pool;
    const size = ["--warm-pool-min", `${pool}`, "--warm-pool-max", `${pool}`];
    this.#daemon = await this.home.start([...size, ...limits, ...args]);
  }

  /** Ends every sandbox and stops the daemon. */
  async stopEmpty(): Promise<void> {
    await killAllSandboxes(this.daemon.url, this.daemon.apiKey);
    await this.leftovers();
    await this.daemon.stop();
    this.#bystander = undefined;
    this.#sleeper = undefined;
  }

  /** Makes sure that the daemon has a pool of that size. */
  async needs(pool: PoolSize): Promise<void> {
    if (this.#pool === pool) return;
    await this.daemon.stop();
    await this.start(pool);
  }

  /** Waits for the death that was ordered, and starts the next daemon. @throws Error when the step never comes */
  async restartAfterDeath(pool: PoolSize): Promise<void> {
    const timeout = new AbortController();
    const late = delay(stepDeadlineMs, undefined, { signal: timeout.signal }).then(() => {
      throw new Error("the daemon never came to that step");
    });
    await Promise.race([this.daemon.exited, late]).finally(() => timeout.abort());
    late.catch(() => {});
    await this.start(pool);
  }

  /** The engine process that was started last, unless it is the bystander's. */
  newestEngine(): ProcessIdentity {
    const engines = this.home.engines().flatMap(({ pid }) => identifyProcess("vm", pid) ?? []);
    const [bystander, ...others] = engines.sort((one, other) => Number(one.startTime) - Number(other.startTime));
    const newest = others.at(-1);
    if (!bystander || !newest) throw new Error("there is no machine to break");
    return newest;
  }

  async killNewestEngine(): Promise<void> {
    await endProcess(this.newestEngine(), 0);
  }

  /** The pid of a sandbox's packet guard. */
  networkGuardOf(id: string): number | undefined {
    const { processes } = JSON.parse(this.#columnOf(id, "machine")) as MachineRecord;
    return processes.find(({ role }) => role === "network")?.pid;
  }

  /** Posts; undefined when the daemon died before it answered. */
  async post(path: string, body: unknown = {}): Promise<Response | undefined> {
    return answerOf(post(this.daemon, path, body));
  }

  async delete(path: string): Promise<Response | undefined> {
    return answerOf(call(this.daemon, path, { method: "DELETE" }));
  }

  async get<T>(path: string): Promise<T> {
    return (await (await call(this.daemon, path)).json()) as T;
  }

  /** Brings the subject into that state. Makes a new subject if there is none. */
  async subjectIs(wanted: "running" | "paused"): Promise<void> {
    if (!this.#subject || (await this.stateOf(this.#subject.id)) === "gone") this.#subject = await this.makeCounted();
    const { id } = this.#subject;
    if ((await this.stateOf(id)) === wanted) return;
    const answer = wanted === "paused" ? await this.post(`/sandboxes/${id}/pause`) : await this.#wake(id);
    if (!answer?.ok) throw new Error(`the subject is not ${wanted}: ${await answer?.text()}`);
  }

  /** Why a sandbox has ended, as the ledger has it. */
  endReasonOf(id: string): string {
    return this.#columnOf(id, "end_reason");
  }

  /** The state of a sandbox as the ledger has it, transitions too. */
  ledgerStateOf(id: string): string {
    return this.#columnOf(id, "state");
  }

  async stateOf(id: string): Promise<SubjectState> {
    const answer = await call(this.daemon, `/sandboxes/${id}`);
    if (answer.status === 404) return "gone";
    return ((await answer.json()) as { state: "running" | "paused" }).state;
  }

  /** Checks that a sandbox works: its memory is as it was and a command runs. Wakes the sandbox if it is paused. */
  async counts(counted: CountedSandbox): Promise<void> {
    const value = await count(await Sandbox.connect(counted.id, { ...connectionTo(this.daemon), timeoutMs: 900_000 }));
    if (value !== counted.value + 1) throw new Error(`${counted.id} went on from ${value - 1}, not ${counted.value}`);
    counted.value = value;
  }

  /**
   * Waits until a sandbox runs commands again. A count is not asked for again and again, because the guest may have
   * counted when the answer was lost.
   */
  async answers({ id }: CountedSandbox): Promise<void> {
    const run = async () => {
      const sandbox = await Sandbox.connect(id, { ...connectionTo(this.daemon), timeoutMs: 900_000 });
      return (await sandbox.commands.run("echo works")).stdout;
    };
    await expect.poll(() => run().catch(String), { timeout: 90_000 }).toBe("works\n");
  }

  /** Checks that a child goes on from the count of its parent. */
  async childCounts(id: string, parent: CountedSandbox): Promise<void> {
    await this.counts({ id, value: parent.value });
  }

  bystanderCounts(): Promise<void> {
    return this.#bystander ? this.counts(this.#bystander) : Promise.resolve();
  }

  sleeperCounts(): Promise<void> {
    return this.#sleeper ? this.counts(this.#sleeper) : Promise.resolve();
  }

  /** The ids of all sandboxes but the subject, the bystander and the sleeper. */
  async others(): Promise<string[]> {
    const ours = [this.#subject, this.#bystander, this.#sleeper].map((counted) => counted?.id);
    const all = await this.get<{ sandboxID: string }[]>("/v2/sandboxes?state=running,paused");
    return all.map(({ sandboxID }) => sandboxID).filter((id) => !ours.includes(id));
  }

  /** Leftovers, once the world has come to rest. */
  async leftovers(): Promise<string[]> {
    const end = performance.now() + stepDeadlineMs;
    for (;;) {
      const found = leftoversOf(this.home, this.daemon.pid);
      if (found.length === 0 || performance.now() > end) return found;
      await delay(50);
    }
  }

  async makeCounted(): Promise<CountedSandbox> {
    const options = { ...connectionTo(this.daemon), timeoutMs: 900_000, allowInternetAccess: false };
    const sandbox = await Sandbox.create("base", options);
    await startCounter(sandbox);
    return { id: sandbox.sandboxId, value: 0 };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The home ends the sandboxes that are left.
    await this.#daemon?.stop();
    await this.home[Symbol.asyncDispose]();
  }

  #columnOf(id: string, column: "state" | "end_reason" | "machine"): string {
    const ledger = new Database(join(this.home.stateDir, "ledger.db"), { readonly: true });
    try {
      return String(ledger.prepare(`select ${column} from sandboxes where id = ?`).pluck().get(id));
    } finally {
      ledger.close();
    }
  }

  #wake(id: string): Promise<Response | undefined> {
    return this.post(`/sandboxes/${id}/resume`, { timeout: 900 });
  }
}

/** The answer to a request; undefined when the connection broke, which `fetch` reports as a TypeError. */
async function answerOf(asked: Promise<Response>): Promise<Response | undefined> {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof TypeError) return undefined;
    throw error;
  }
}

/** A short deadline, so that a machine that hangs is given up within a test. */
const limits = ["--stuck-after-seconds", "15"];
