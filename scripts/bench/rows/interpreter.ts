/**
 * The rows of template code-interpreter-v1: its starts beside the raw engine, its cells beside the same shell in the
 * same guest without the service and HTTP.
 */
import { readFile } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type Bench, type RowFamily, settle, timeMs } from "../bench.ts";
import type { BenchSandbox } from "../e2b-client.ts";
import { privateMiB } from "../machine-memory.ts";
import { distributionOf, type Row } from "../statistics.ts";

const template = "code-interpreter-v1";
const rawScript = fileURLToPath(new URL("../../../../scripts/bench/raw_cells.py", import.meta.url));
const pandas = "import pandas";
/** After this time a sandbox is idle: gVisor gives back what a start needed a second after it. */
const restMs = 2_000;
const plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()";

/** The goals of a machine without emulation, and of an emulated one. */
const goals = {
  fast: { pool: 10, create: 200, first: 150, value: 10, context: 20, pandas: 600, plot: 300, privateMiB: 60 },
  emulated: { pool: 10, create: 250, first: 440, value: 30, context: 50, pandas: 3000, plot: 1500, privateMiB: 120 },
} as const;

/** Times of the raw baseline by kind, ms. */
interface RawTimes {
  readonly value: readonly number[];
  readonly context: readonly number[];
  readonly pandas: readonly number[];
  readonly plot: readonly number[];
}

export const interpreterRows: RowFamily = {
  name: "interpreter",
  async measure(bench) {
    const { daemon, raw, quick, progress } = bench;
    const goal = raw.driver.info.acceleration === "tcg" ? goals.emulated : goals.fast;
    progress(`template ${template}, which may have to be made`);
    await daemon.client.kill(await daemon.client.createWhenReady(template));
    const row = (what: string, limit: number, samples: readonly number[], baseline?: readonly number[]): Row => {
      const measured = distributionOf(samples);
      const rawOne = baseline && distributionOf(baseline);
      const beside = rawOne ? `${(measured.p50 / rawOne.p50).toFixed(2)} × raw` : `p50 ${measured.p50.toFixed(1)} ms`;
      return {
        what: `code interpreter: ${what}`,
        goal: `p50 ≤ ${limit} ms`,
        unit: "ms",
        measured,
        ...(rawOne && { raw: rawOne }),
        result: beside,
        met: measured.p50 <= limit,
      };
    };
    const starts = await measureStarts(bench, quick ? 3 : 30);
    const cells = await measureCells(bench, quick ? 20 : 200);
    const pool = await measurePool(bench, quick ? 3 : 30);
    return [
      row("create, from the pool", goal.pool, pool.ready),
      row("create from the pool to the end of the first cell, print(1)", goal.first, pool.first),
      row("create, by a restore", goal.create, starts.ready, starts.raw),
      row("create by a restore to the end of the first cell, print(1)", goal.first, starts.first),
      row("runCode 1+1, warm", goal.value, cells.value, cells.raw.value),
      row("createCodeContext (raw: a fork of the loaded process)", goal.context, cells.context, cells.raw.context),
      row("import pandas, first in its context (raw: a new python3)", goal.pandas, cells.pandas, cells.raw.pandas),
      row("plot to png and chart, warm", goal.plot, cells.plot, cells.raw.plot),
      {
        what: "code interpreter: private host memory, idle after one cell",
        goal: `≤ ${goal.privateMiB} MiB`,
        unit: "MiB",
        measured: distributionOf(starts.memoryMiB),
        result: `${distributionOf(starts.memoryMiB).p50.toFixed(0)} MiB`,
        met: distributionOf(starts.memoryMiB).p50 <= goal.privateMiB,
      },
    ];
  },
};

/** Creates by restores, raw and through the daemon in turn, each with its first cell. */
async function measureStarts(bench: Bench, rounds: number) {
  const { daemon, raw, progress } = bench;
  progress("code interpreter: creates by a restore, raw and through the daemon in turn");
  const [ready, first, rawMs, memoryMiB]: [number[], number[], number[], number[]] = [[], [], [], []];
  for (let round = 0; round <= rounds; round++) {
    let machine: Awaited<ReturnType<typeof raw.restore>> | undefined;
    const restoreMs = await timeMs(async () => {
      machine = await raw.restore(template);
    });
    if (machine) await raw.terminate(machine);
    await settle();
    const startedMs = performance.now();
    const sandbox = await daemon.client.create(template);
    const readyMs = performance.now() - startedMs;
    await daemon.client.cell(sandbox, "print(1)");
    const firstMs = performance.now() - startedMs;
    await delay(restMs);
    const memory = privateMiB(bench, daemon.machineOf(sandbox.sandboxID));
    await daemon.client.kill(sandbox);
    await settle();
    // The first round warms the page cache and the compilers.
    if (round === 0) continue;
    rawMs.push(restoreMs);
    ready.push(readyMs);
    first.push(firstMs);
    memoryMiB.push(memory);
  }
  return { ready, first, raw: rawMs, memoryMiB };
}

async function measureCells({ daemon: { client }, progress }: Bench, rounds: number) {
  const sandbox = await client.create(template);
  try {
    progress("code interpreter: cells without the service, in the guest");
    const script = "/tmp/raw_cells.py";
    await client.upload(sandbox, script, await readFile(rawScript));
    const raw = JSON.parse(await client.output(sandbox, `sudo python3 ${script} ${rounds}`)) as RawTimes;
    progress("code interpreter: cells");
    const times = async (count: number, work: () => Promise<unknown>) => {
      const samples: number[] = [];
      for (let round = 0; round < count; round++) samples.push(await timeMs(work));
      return samples;
    };
    const few = Math.max(1, Math.floor(rounds / 10));
    await times(10, () => client.cell(sandbox, "1+1"));
    const value = await times(rounds, () => client.cell(sandbox, "1+1"));
    const context = await contexts(client, sandbox, few, undefined);
    const first = await contexts(client, sandbox, few, pandas);
    await client.cell(sandbox, plot);
    return { raw, value, context, pandas: first, plot: await times(few, () => client.cell(sandbox, plot)) };
  } finally {
    await client.kill(sandbox);
  }
}

/** Makes contexts, each when the spare kernel is ready again, and times them, or their first cell if there is one. */
async function contexts(client: Bench["daemon"]["client"], sandbox: BenchSandbox, count: number, code?: string) {
  const samples: number[] = [];
  for (let round = 0; round < count; round++) {
    await delay(1_000);
    let id = "";
    const madeMs = await timeMs(async () => {
      id = await client.context(sandbox);
    });
    samples.push(code === undefined ? madeMs : await timeMs(() => client.cell(sandbox, code, id)));
    await client.removeContext(sandbox, id);
  }
  return samples;
}

async function measurePool({ daemon, progress }: Bench, rounds: number) {
  progress("code interpreter: creates from the pool");
  await daemon.end("SIGTERM");
  await daemon.start(["--warm-pool-max", "4"]);
  const [ready, first]: [number[], number[]] = [[], []];
  const depth = 'firkin_warm_pool_depth{state="ready"}';
  const checkouts = 'firkin_warm_pool_checkouts_total{outcome="hit"}';
  // The pool goes by demand: after some creates it keeps entries of this template.
  for (let round = 0; ready.length < rounds && round < rounds * 4; round++) {
    for (let waitedMs = 0; waitedMs < 10_000 && (await daemon.client.metric(depth)) < 2; waitedMs += 200) {
      await delay(200);
    }
    const before = await daemon.client.metric(checkouts);
    const startedMs = performance.now();
    const sandbox = await daemon.client.create(template);
    const readyMs = performance.now() - startedMs;
    const isHit = (await daemon.client.metric(checkouts)) > before;
    const restMs = await timeMs(() => daemon.client.cell(sandbox, "print(1)"));
    await daemon.client.kill(sandbox);
    if (!isHit) continue;
    ready.push(readyMs);
    first.push(readyMs + restMs);
  }
  await daemon.end("SIGTERM");
  await daemon.start();
  return { ready, first };
}
