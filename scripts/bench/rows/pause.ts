/** The rows of pause and resume of a sandbox that has dirtied some of its memory. */
import { setTimeout as delay } from "node:timers/promises";
import { type Bench, type RowFamily, timeMs } from "../bench.ts";
import { rawCommand } from "../raw-engine.ts";
import { distributionOf, type Row } from "../statistics.ts";

/** By engine: the goal of gVisor is its own. */
const pauseGoalMs = { qemu: 100, gvisor: 60, vz: 100 } as const;
const resumeGoal = 1.25;
/**
 * Random bytes in a file system in memory. With the pages that a restore and a shell dirty, they make some 20 to 30
 * MiB.
 */
const dirty = "head -c 12000000 /dev/urandom > /dev/shm/dirty";
/** The time before each step, because a client's pauses have commands and some seconds between them. */
const pauseMs = 300;

export const pauseRows: RowFamily = {
  name: "pause",
  async measure(bench) {
    bench.progress("pause and resume");
    const samples: Sample[] = [];
    const raw: number[] = [];
    for (let n = 0; n < (bench.quick ? 5 : 100); n++) {
      raw.push(await rawFirstOutputMs(bench));
      samples.push(await pauseOnce(bench));
    }
    const goalMs = pauseGoalMs[bench.raw.driver.info.engine];
    const pause = distributionOf(samples.map((sample) => sample.pauseMs));
    const resume = distributionOf(samples.map((sample) => sample.resumeMs));
    const first = distributionOf(samples.map((sample) => sample.firstOutputMs));
    const rawFirst = distributionOf(raw);
    const ratio = first.p50 / rawFirst.p50;
    const row = (what: string, measured: typeof pause): Row => ({
      what,
      goal: "–",
      unit: "ms",
      measured,
      result: `${measured.p50.toFixed(0)} ms`,
      met: true,
    });
    return [
      {
        ...row("pause, durable, 512 MiB guest, ≥ 12 MB dirty", pause),
        goal: `p50 ≤ ${goalMs} ms`,
        met: pause.p50 <= goalMs,
      },
      row("resume of it: connect to 201", resume),
      {
        ...row("resume of it, to the first byte of a command (raw: restore of `base` and its first command)", first),
        goal: `≤ ${resumeGoal} × raw`,
        raw: rawFirst,
        result: `${ratio.toFixed(2)} × raw`,
        met: ratio <= resumeGoal,
      },
    ];
  },
};

interface Sample {
  readonly pauseMs: number;
  readonly resumeMs: number;
  readonly firstOutputMs: number;
}

async function rawFirstOutputMs({ raw }: Bench): Promise<number> {
  const startedMs = performance.now();
  let firstOutputMs = Number.NaN;
  const machine = await raw.restore();
  await rawCommand(machine.agent, "echo hi", () => {
    firstOutputMs = performance.now() - startedMs;
  });
  await raw.terminate(machine);
  await delay(pauseMs);
  return firstOutputMs;
}

async function pauseOnce({ daemon: { client } }: Bench): Promise<Sample> {
  const sandbox = await client.create();
  await client.command(sandbox, dirty);
  await delay(pauseMs);
  const paused = await timeMs(() => client.pause(sandbox));
  await delay(pauseMs);
  const startedMs = performance.now();
  const resumeMs = await timeMs(() => client.resume(sandbox));
  let firstOutputMs = Number.NaN;
  await client.command(sandbox, "echo hi", () => {
    firstOutputMs = performance.now() - startedMs;
  });
  await client.kill(sandbox);
  await delay(pauseMs);
  return { pauseMs: paused, resumeMs, firstOutputMs };
}
