/** The rows of pause and resume of a sandbox that has dirtied some of its memory. */
import { setTimeout as delay } from "node:timers/promises";
import { type Bench, type RowFamily, timeMs } from "../bench.ts";
import { distributionOf, type Row } from "../statistics.ts";

const pauseGoalMs = 100;
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
    const samples: { pauseMs: number; resumeMs: number; firstOutputMs: number }[] = [];
    for (let n = 0; n < (bench.quick ? 5 : 100); n++) samples.push(await pauseOnce(bench));
    const pause = distributionOf(samples.map((sample) => sample.pauseMs));
    const resume = distributionOf(samples.map((sample) => sample.resumeMs));
    const first = distributionOf(samples.map((sample) => sample.firstOutputMs));
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
        goal: `p50 ≤ ${pauseGoalMs} ms`,
        met: pause.p50 <= pauseGoalMs,
      },
      row("resume of it: connect to 201", resume),
      row("resume of it, to the first byte of a command", first),
    ];
  },
};

async function pauseOnce({ daemon: { client } }: Bench) {
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
