/** The rows from a create request to a sandbox that can be used, and to the first output of its first command. */
import { type Bench, type RowFamily, settle } from "../bench.ts";
import { rawCommand } from "../raw-engine.ts";
import { distributionOf, interleave, type Row } from "../statistics.ts";

const firstCommand = "echo hi";
const goal = 1.25;

/** Both times count from the same moment, ms. */
interface Start {
  readonly readyMs: number;
  readonly firstOutputMs: number;
}

export const createRows: RowFamily = {
  name: "create",
  async measure(bench) {
    bench.progress("create and first output, raw and through the daemon in turn");
    // The first samples warm the page cache and the compilers.
    await interleave(
      2,
      () => startRaw(bench),
      () => startSandbox(bench),
    );
    const rounds = bench.quick ? 10 : 100;
    const { raw, measured } = await interleave(
      rounds,
      () => startRaw(bench),
      () => startSandbox(bench),
    );
    const row = (what: string, of: (start: Start) => number): Row => {
      const [ours, theirs] = [distributionOf(measured.map(of)), distributionOf(raw.map(of))];
      const ratio = ours.p50 / theirs.p50;
      return {
        what,
        goal: `≤ ${goal} × raw`,
        unit: "ms",
        measured: ours,
        raw: theirs,
        result: `${ratio.toFixed(2)} × raw`,
        met: ratio <= goal,
      };
    };
    return [
      row("create, pool empty: POST to 201", ({ readyMs }) => readyMs),
      row("resume to first stdout: create and first command", ({ firstOutputMs }) => firstOutputMs),
    ];
  },
};

async function startRaw({ raw }: Bench): Promise<Start> {
  const startedMs = performance.now();
  const machine = await raw.restore();
  const readyMs = performance.now() - startedMs;
  let firstOutputMs = Number.NaN;
  await rawCommand(machine.agent, firstCommand, () => {
    firstOutputMs = performance.now() - startedMs;
  });
  await raw.terminate(machine);
  await settle();
  return { readyMs, firstOutputMs };
}

async function startSandbox({ daemon: { client } }: Bench): Promise<Start> {
  const startedMs = performance.now();
  const sandbox = await client.create();
  const readyMs = performance.now() - startedMs;
  let firstOutputMs = Number.NaN;
  await client.command(sandbox, firstCommand, () => {
    firstOutputMs = performance.now() - startedMs;
  });
  await client.kill(sandbox);
  await settle();
  return { readyMs, firstOutputMs };
}
