/** `kill -9` of the daemon with sandboxes at work, and what the next one makes of that. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { isRunning } from "../../../src/machine/processes.ts";
import { type Bench, type RowFamily, timeMs } from "../bench.ts";
import type { BenchSandbox } from "../e2b-client.ts";
import { distributionOf } from "../statistics.ts";

const count = 8;
const goalMs = 2_000;

interface Restart {
  readonly servingMs: number;
  /** What is wrong afterwards; empty when nothing is. */
  readonly faults: readonly string[];
}

export const restartRows: RowFamily = {
  name: "restart",
  async measure(bench) {
    bench.progress(`kill -9 with ${count} running`);
    const rounds: Restart[] = [];
    for (let round = bench.quick ? 1 : 5; round > 0; round--) rounds.push(await measureRestart(bench));
    const measured = distributionOf(rounds.map(({ servingMs }) => servingMs));
    const slowestMs = Math.max(...rounds.map(({ servingMs }) => servingMs));
    const faults = rounds.flatMap((round) => round.faults);
    const after = `all ${count} there, their commands running, nothing leaked`;
    return [
      {
        what: `kill -9 of the daemon with ${count} running: start to serving again`,
        goal: `≤ ${goalMs / 1000} s, ${after}`,
        unit: "ms",
        measured,
        result: `slowest ${slowestMs.toFixed(0)} ms; ${faults.length === 0 ? after : faults.join("; ")}`,
        met: slowestMs <= goalMs && faults.length === 0,
      },
    ];
  },
};

async function measureRestart({ daemon }: Bench): Promise<Restart> {
  const sandboxes = await Promise.all(Array.from({ length: count }, () => daemon.client.create()));
  const pids = await Promise.all(sandboxes.map((sandbox) => daemon.client.background(sandbox, "sleep 3600")));
  const machines = daemon.machines().map(({ machine }) => machine);
  const folder = join(daemon.stateDir, "machines");
  await daemon.end("SIGKILL");
  const servingMs = await timeMs(async () => {
    await daemon.start();
    await daemon.client.list();
  });
  const faults: string[] = [];
  const expect = (isTrue: boolean, fault: string) => void (isTrue || faults.push(fault));
  const listed = new Set((await daemon.client.list()).map(({ sandboxID }) => sandboxID));
  const missing = sandboxes.filter(({ sandboxID }) => !listed.has(sandboxID));
  expect(missing.length === 0, `${missing.length} sandboxes are gone`);
  const alive = await Promise.all(sandboxes.map((sandbox, index) => isAlive(daemon.client, sandbox, pids[index] ?? 0)));
  expect(!alive.includes(false), `${alive.filter((is) => !is).length} commands have ended`);
  const engines = daemon.engines().length;
  expect(engines === count, `${engines} engines run`);
  await daemon.killAll();
  const left = machines.flatMap(({ processes }) => processes).filter(isRunning).length;
  expect(left === 0 && daemon.engines().length === 0, `${left} processes are left after the kill`);
  const files = await readdir(folder);
  expect(files.length === 0, `${files.length} folders are left after the kill`);
  return { servingMs, faults };
}

async function isAlive(client: Bench["daemon"]["client"], sandbox: BenchSandbox, pid: number): Promise<boolean> {
  return (await client.command(sandbox, `kill -0 ${pid}`)).exitCode === 0;
}
