/** The rows of commands in a machine that has run some already, each from its request to the end of its stream. */
import { type Bench, type RowFamily, timeMs } from "../bench.ts";
import type { BenchSandbox } from "../e2b-client.ts";
import { type RawMachine, rawCommand } from "../raw-engine.ts";
import { distributionOf, interleave, type Row } from "../statistics.ts";

const command = "echo hi";
const seriesLength = 100;
const overheadGoalMs = 3;
const seriesGoal = 1.3;

export const commandRows: RowFamily = {
  name: "commands",
  async measure(bench) {
    const machine = await bench.raw.restore();
    const sandbox = await bench.daemon.client.create();
    try {
      return [await measureRoundTrip(bench, machine, sandbox), await measureSeries(bench, machine, sandbox)];
    } finally {
      await bench.daemon.client.kill(sandbox);
      await bench.raw.terminate(machine);
    }
  },
};

async function measureRoundTrip(
  { quick, progress, daemon }: Bench,
  { agent }: RawMachine,
  sandbox: BenchSandbox,
): Promise<Row> {
  progress("command round trips, raw and through the daemon in turn");
  const sample = (rounds: number) =>
    interleave(
      rounds,
      () => timeMs(() => rawCommand(agent, command)),
      () => timeMs(() => daemon.client.command(sandbox, command)),
    );
  await sample(10);
  const samples = await sample(quick ? 50 : 500);
  const [measured, raw] = [distributionOf(samples.measured), distributionOf(samples.raw)];
  const overheadMs = measured.p50 - raw.p50;
  return {
    what: "command round trip, warm VM",
    goal: `raw + ≤ ${overheadGoalMs} ms p50`,
    unit: "ms",
    measured,
    raw,
    result: `raw ${overheadMs < 0 ? "−" : "+"} ${Math.abs(overheadMs).toFixed(2)} ms`,
    met: overheadMs <= overheadGoalMs,
  };
}

async function measureSeries(
  { quick, progress, daemon }: Bench,
  { agent }: RawMachine,
  sandbox: BenchSandbox,
): Promise<Row> {
  progress(`${seriesLength} commands one after the other`);
  const series = (run: () => Promise<unknown>) =>
    timeMs(async () => {
      for (let count = 0; count < seriesLength; count++) await run();
    });
  const samples = await interleave(
    quick ? 1 : 5,
    () => series(() => rawCommand(agent, command)),
    () => series(() => daemon.client.command(sandbox, command)),
  );
  const [measured, raw] = [distributionOf(samples.measured), distributionOf(samples.raw)];
  const ratio = measured.p50 / raw.p50;
  return {
    what: `${seriesLength} small commands, sequential`,
    goal: `≤ ${seriesGoal} × raw`,
    unit: "ms",
    measured,
    raw,
    result: `${ratio.toFixed(2)} × raw`,
    met: ratio <= seriesGoal,
  };
}
