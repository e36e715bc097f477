/** The row of `kill -9` of the daemon with sandboxes at work and others paused, until the next daemon serves. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { isRunning } from "../../../src/machine/processes.ts";
import type { MachineRecord } from "../../../src/types.ts";
import { type Bench, type RowFamily, timeMs } from "../bench.ts";
import type { BenchDaemon } from "../bench-daemon.ts";
import type { BenchSandbox, E2bClient } from "../e2b-client.ts";
import { distributionOf } from "../statistics.ts";

const runningCount = 8;
const pausedCount = 4;
const goalMs = 2_000;

interface Restart {
  readonly servingMs: number;
  /** What is wrong afterwards; empty when all is well. */
  readonly faults: readonly string[];
}

export const restartRows: RowFamily = {
  name: "restart",
  async measure(bench) {
    bench.progress(`kill -9 with ${runningCount} running and ${pausedCount} paused`);
    const rounds: Restart[] = [];
    for (let round = bench.quick ? 1 : 5; round > 0; round--) rounds.push(await measureRestart(bench));
    const measured = distributionOf(rounds.map(({ servingMs }) => servingMs));
    const slowestMs = Math.max(...rounds.map(({ servingMs }) => servingMs));
    const faults = rounds.flatMap((round) => round.faults);
    const after = `all ${runningCount + pausedCount} there, their commands running, nothing leaked`;
    return [
      {
        what: `kill -9 of the daemon with ${runningCount} running and ${pausedCount} paused: start to serving again`,
        goal: `≤ ${goalMs / 1000} s, ${after}`,
        unit: "ms",
        measured,
        result: `slowest ${slowestMs.toFixed(0)} ms; ${faults.length === 0 ? after : faults.join("; ")}`,
        met: slowestMs <= goalMs && faults.length === 0,
      },
    ];
  },
};

interface Worker {
  readonly sandbox: BenchSandbox;
  /** The pid of a command that goes on. */
  readonly pid: number;
}

async function measureRestart({ daemon }: Bench): Promise<Restart> {
  const { client } = daemon;
  const workers = await Promise.all(Array.from({ length: runningCount + pausedCount }, () => startWorker(client)));
  const machines = daemon.machines().map(({ machine }) => machine);
  const paused = workers.slice(runningCount);
  for (const { sandbox } of paused) await client.pause(sandbox);
  await daemon.end("SIGKILL");
  const servingMs = await timeMs(async () => {
    await daemon.start();
    await daemon.client.list();
  });
  return { servingMs, faults: await findFaults(daemon, workers, paused, machines) };
}

async function startWorker(client: E2bClient): Promise<Worker> {
  const sandbox = await client.create();
  return { sandbox, pid: await client.background(sandbox, "sleep 3600") };
}

/** Checks everything that should still be there, ends it, and looks for things that should be gone. */
async function findFaults(
  daemon: BenchDaemon,
  workers: readonly Worker[],
  paused: readonly Worker[],
  machines: readonly MachineRecord[],
): Promise<string[]> {
  const { client } = daemon;
  const faults: string[] = [];
  const expect = (isTrue: boolean, fault: string) => void (isTrue || faults.push(fault));
  const listed = new Set((await client.list()).map(({ sandboxID }) => sandboxID));
  const missing = workers.filter(({ sandbox }) => !listed.has(sandbox.sandboxID)).length;
  expect(missing === 0, `${missing} sandboxes are gone`);
  const engines = daemon.engines().length;
  expect(engines === runningCount, `${engines} engines run`);
  for (const { sandbox } of paused) await client.resume(sandbox);
  const alive = await Promise.all(workers.map((worker) => isAtWork(client, worker)));
  expect(!alive.includes(false), `${alive.filter((is) => !is).length} commands have ended`);
  await daemon.killAll();
  const left = machines.flatMap(({ processes }) => processes).filter(isRunning).length;
  expect(left === 0 && daemon.engines().length === 0, `${left} processes are left after the kill`);
  for (const folder of ["machines", "snapshots"]) {
    const found = await readdir(join(daemon.stateDir, folder));
    // The snapshot of the template stays.
    const leaked = found.length - (folder === "snapshots" ? 1 : 0);
    expect(leaked === 0, `${leaked} ${folder} are left after the kill`);
  }
  return faults;
}

async function isAtWork(client: E2bClient, { sandbox, pid }: Worker): Promise<boolean> {
  return (await client.command(sandbox, `kill -0 ${pid}`)).exitCode === 0;
}
