/**
 * The soak: mixed work at capacity on the real engine, through the SDK, while the daemon is killed and started again at
 * intervals. It counts unexplained errors, lists what is left, and measures how much the daemon grew.
 */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { RateLimitError, Sandbox } from "e2b";
import { makeDaemonHome } from "../support/daemon/home.ts";
import type { RealDaemon } from "../support/daemon/real-daemon.ts";
import { call, connectionTo } from "../support/daemon/requests.ts";
import { leftoversOf } from "../support/faults/leftovers.ts";
import { count, startCounter } from "../support/guest/memory-counter.ts";
import { growthOf, type MemorySample } from "./growth.ts";
import { jobs, type SoakJob } from "./jobs.ts";

export interface SoakOptions {
  readonly minutes: number;
  /** How often the daemon is killed, in the first third. */
  readonly killEveryMs?: number;
  readonly report: (line: string) => void;
}

export interface SoakResult {
  readonly minutes: number;
  /** How often each job was done, by its name. */
  readonly done: Readonly<Record<string, number>>;
  /** Jobs that a killed daemon interrupted, and those that found no capacity. */
  readonly interrupted: number;
  readonly refused: number;
  readonly unexplained: readonly string[];
  readonly kills: number;
  /** Resident memory of the last daemon over time. */
  readonly startMiB: number;
  readonly endMiB: number;
  readonly slopeMiBPerMinute: number;
  readonly leftFds: number;
  readonly leftBytes: number;
  readonly leftovers: readonly string[];
}

/** More clients than sandboxes, so that some always wait for capacity. */
const workers = 4;
const args = [
  "--max-sandboxes",
  "7",
  "--warm-pool-min",
  "1",
  "--warm-pool-max",
  "2",
  "--queue-timeout-ms",
  "60000",
  "--log-level",
  "warn",
];
/** The share of a soak, at its beginning, in which the daemon is killed. Its memory is watched in the rest. */
const killedShare = 1 / 3;
const sampleMs = 1_000;
const restDeadlineMs = 60_000;

/** The current daemon, and how often a daemon was killed. */
interface DaemonLife {
  daemon: RealDaemon;
  kills: number;
  /** Set while no daemon runs. */
  restart: Promise<void> | undefined;
}

export async function soak({ minutes, killEveryMs = 20_000, report }: SoakOptions): Promise<SoakResult> {
  await using home = await makeDaemonHome();
  const life: DaemonLife = { daemon: await home.start(args), kills: 0, restart: undefined };
  try {
    await comesToRest();
    const bytesBefore = bytesIn(home.stateDir);
    const bystander = await Sandbox.create("base", { ...connectionTo(life.daemon), timeoutMs: 24 * 3_600_000 });
    await startCounter(bystander);
    const tally = { done: {} as Record<string, number>, interrupted: 0, refused: 0, unexplained: [] as string[] };
    const startMs = performance.now();
    const endMs = startMs + minutes * 60_000;
    const memory: MemorySample[] = [];
    await Promise.all([
      ...Array.from({ length: workers }, (_, worker) => work(worker, endMs, life, tally)),
      killNowAndThen(killEveryMs, startMs + (endMs - startMs) * killedShare, life, async () => {
        const daemon = await home.start(args);
        // A sandbox whose client never heard of it would hold its capacity until its time is up.
        await endAllBut(bystander.sandboxId, daemon);
        return daemon;
      }),
      watch(endMs, startMs + (endMs - startMs) * killedShare, life, memory, () =>
        report(`${JSON.stringify(tally.done)}, ${tally.unexplained.length} unexplained, ${life.kills} kills`),
      ),
    ]);
    const counted = await count(await Sandbox.connect(bystander.sandboxId, connectionTo(life.daemon)));
    if (counted !== 1) tally.unexplained.push(`the bystander's counter was ${counted - 1} and not 0`);
    await endAllBut("", life.daemon);
    await removeSnapshots(life.daemon);
    const leftovers = await comesToRest();
    return {
      minutes,
      ...tally,
      kills: life.kills,
      ...growthOf(memory),
      leftBytes: bytesIn(home.stateDir) - bytesBefore,
      leftFds: strayFds(life.daemon.pid, home.stateDir),
      leftovers,
    };
  } finally {
    await life.daemon.stop();
  }

  /** Leftovers, once the daemon has nothing under way. */
  async function comesToRest(): Promise<string[]> {
    const end = performance.now() + restDeadlineMs;
    for (;;) {
      const found = leftoversOf(home, life.daemon.pid);
      if (found.length === 0 || performance.now() > end) return found;
      await delay(200);
    }
  }
}

interface Tally {
  readonly done: Record<string, number>;
  interrupted: number;
  refused: number;
  readonly unexplained: string[];
}

/** One client: does a job after the other, and begins at another job than the other clients. */
async function work(worker: number, endMs: number, life: DaemonLife, tally: Tally): Promise<void> {
  for (let turn = worker * 2; performance.now() < endMs; turn++) {
    await life.restart;
    const [name, job] = (Object.entries(jobs) as [string, SoakJob][])[turn % Object.keys(jobs).length] ?? [];
    if (!name || !job) throw new Error("there is no job to do");
    const { kills } = life;
    const mine = new Set<string>();
    try {
      await job({ connection: connectionTo(life.daemon), own: (id) => void mine.add(id) });
      tally.done[name] = (tally.done[name] ?? 0) + 1;
    } catch (error) {
      if (life.kills !== kills) tally.interrupted += 1;
      else if (error instanceof RateLimitError) tally.refused += 1;
      else tally.unexplained.push(`${name}: ${error instanceof Error ? error.stack : String(error)}`);
    }
    await life.restart;
    // Ends the sandboxes that an interrupted job left.
    for (const id of mine) await call(life.daemon, `/sandboxes/${id}`, { method: "DELETE" }).catch(() => {});
  }
}

async function killNowAndThen(
  killEveryMs: number,
  untilMs: number,
  life: DaemonLife,
  start: () => Promise<RealDaemon>,
): Promise<void> {
  while (performance.now() + killEveryMs < untilMs) {
    await delay(killEveryMs);
    life.kills += 1;
    life.restart = (async () => {
      await life.daemon.kill();
      life.daemon = await start();
    })();
    await life.restart;
    life.restart = undefined;
  }
}

async function watch(endMs: number, fromMs: number, life: DaemonLife, memory: MemorySample[], tell: () => void) {
  for (let n = 0; performance.now() < endMs; n++) {
    await delay(sampleMs);
    if (n % 30 === 29) tell();
    if (performance.now() < fromMs || life.restart) continue;
    const kib = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${life.daemon.pid}/status`, "utf8"))?.[1];
    memory.push({ atMs: performance.now(), mib: Number(kib) / 1024 });
  }
}

async function endAllBut(id: string, daemon: RealDaemon): Promise<void> {
  const all = (await (await call(daemon, "/v2/sandboxes?state=running,paused")).json()) as { sandboxID: string }[];
  const others = all.filter(({ sandboxID }) => sandboxID !== id);
  await Promise.all(others.map(({ sandboxID }) => call(daemon, `/sandboxes/${sandboxID}`, { method: "DELETE" })));
}

async function removeSnapshots(daemon: RealDaemon): Promise<void> {
  const snapshots = (await (await call(daemon, "/snapshots")).json()) as { snapshotID: string }[];
  for (const { snapshotID } of snapshots) {
    const answer = await call(daemon, `/templates/${snapshotID}`, { method: "DELETE" });
    if (!answer.ok) throw new Error(`${snapshotID} cannot be deleted: ${await answer.text()}`);
  }
}

/** Bytes that snapshots take on the disk. */
function bytesIn(stateDir: string): number {
  const output = execFileSync("du", ["-s", "--block-size=1", join(stateDir, "snapshots")], { encoding: "utf8" });
  return Number(output.split("\t")[0]);
}

/** How many files of snapshots the daemon has open. */
function strayFds(pid: number, stateDir: string): number {
  const targets = readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      return execFileSync("readlink", [`/proc/${pid}/fd/${fd}`], { encoding: "utf8" }).trim();
    } catch {
      return "";
    }
  });
  return targets.filter((target) => target.startsWith(join(stateDir, "snapshots"))).length;
}
