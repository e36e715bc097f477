/** The rows of the end of a sandbox: until its answer, and until nothing of it is left. */
import { existsSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { isRunning } from "../../../src/machine/processes.ts";
import { type Bench, type RowFamily, settle, timeMs } from "../bench.ts";
import { rawCommand } from "../raw-engine.ts";
import { distributionOf, interleave } from "../statistics.ts";

const answerGoalMs = 10;
const goneGoalMs = 500;
const usedCommand = "echo hi";

interface Kill {
  /** The raw engine has no answer. */
  readonly answerMs: number;
  readonly goneMs: number;
}

export const killRows: RowFamily = {
  name: "kill",
  async measure(bench) {
    bench.progress("kill");
    const samples = await interleave(
      bench.quick ? 8 : 50,
      () => killRaw(bench),
      () => killSandbox(bench),
    );
    const answer = distributionOf(samples.measured.map(({ answerMs }) => answerMs));
    const gone = distributionOf(samples.measured.map(({ goneMs }) => goneMs));
    const raw = distributionOf(samples.raw.map(({ goneMs }) => goneMs));
    const slowestMs = Math.max(...samples.measured.map(({ goneMs }) => goneMs));
    return [
      {
        what: "kill: DELETE to 204",
        goal: `p50 ≤ ${answerGoalMs} ms`,
        unit: "ms",
        measured: answer,
        result: `${answer.p50.toFixed(1)} ms`,
        met: answer.p50 <= answerGoalMs,
      },
      {
        what: "kill: DELETE to process, sockets and files gone",
        goal: `≤ ${goneGoalMs} ms`,
        unit: "ms",
        measured: gone,
        raw,
        result: `slowest ${slowestMs.toFixed(0)} ms`,
        met: slowestMs <= goneGoalMs,
      },
    ];
  },
};

async function killRaw({ raw }: Bench): Promise<Kill> {
  const machine = await raw.restore();
  await rawCommand(machine.agent, usedCommand);
  await settle();
  return { answerMs: Number.NaN, goneMs: await timeMs(() => raw.terminate(machine)) };
}

async function killSandbox({ daemon }: Bench): Promise<Kill> {
  const sandbox = await daemon.client.create();
  await daemon.client.command(sandbox, usedCommand);
  const { folder, processes } = daemon.machineOf(sandbox.sandboxID);
  await settle();
  const startedMs = performance.now();
  await daemon.client.kill(sandbox);
  const answerMs = performance.now() - startedMs;
  while (existsSync(folder) || processes.some(isRunning)) await delay(2);
  return { answerMs, goneMs: performance.now() - startedMs };
}
