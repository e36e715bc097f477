/**
 * The row of a create that checks out a warm entry. The daemon is started again with a warm pool, which is full
 * before each sample.
 */
import { setTimeout as delay } from "node:timers/promises";
import { type Bench, type RowFamily, timeMs } from "../bench.ts";
import { distributionOf } from "../statistics.ts";

const poolSize = 2;
const p50GoalMs = 5;
const p99GoalMs = 20;
/** The wait after the last refill, whose machine runs on for a moment. */
const quietMs = 250;
const fillDeadlineMs = 60_000;

export const poolRows: RowFamily = {
  name: "pool",
  async measure(bench) {
    bench.progress("create, pool hit");
    const { daemon } = bench;
    await daemon.end("SIGTERM");
    await daemon.start(["--warm-pool-min", String(poolSize), "--warm-pool-max", String(poolSize)]);
    const samples: number[] = [];
    for (let n = 0; n < (bench.quick ? 10 : 500); n++) samples.push(await createWarm(bench));
    const measured = distributionOf(samples);
    return [
      {
        what: "create, pool hit: POST to 201",
        goal: `p50 ≤ ${p50GoalMs} ms, p99 ≤ ${p99GoalMs} ms`,
        unit: "ms",
        measured,
        result: `p50 ${measured.p50.toFixed(1)} ms, slowest ${Math.max(...samples).toFixed(0)} ms`,
        met: measured.p50 <= p50GoalMs && measured.p99 <= p99GoalMs,
      },
    ];
  },
};

async function createWarm({ daemon: { client } }: Bench): Promise<number> {
  const deadlineMs = performance.now() + fillDeadlineMs;
  while ((await client.metric('firkin_warm_pool_depth{state="ready"}')) < poolSize) {
    if (performance.now() > deadlineMs) throw new Error("the warm pool does not fill");
    await delay(100);
  }
  await delay(quietMs);
  let made: Awaited<ReturnType<typeof client.create>> | undefined;
  const elapsedMs = await timeMs(async () => {
    made = await client.create();
  });
  if (made) await client.kill(made);
  return elapsedMs;
}
