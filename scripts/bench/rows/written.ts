/**
 * The rows of a pause, a resume and a fork after a sandbox has written to its disk: what they cost must be near to what
 * was written since the sandbox was restored, and a second pause must not pay for it again.
 */
import { type Bench, type RowFamily, settle, timeMs } from "../bench.ts";
import { distributionOf, type Row } from "../statistics.ts";

const sizes = [
  { what: "1 MiB", mebibytes: 1 },
  { what: "100 MiB", mebibytes: 100 },
  { what: "1 GiB", mebibytes: 1024 },
];

interface Sample {
  readonly forkMs: number;
  readonly pauseMs: number;
  readonly resumeMs: number;
  readonly secondPauseMs: number;
}

export const writtenRows: RowFamily = {
  name: "written",
  async measure(bench) {
    const rows: Row[] = [];
    for (const { what, mebibytes } of sizes) {
      bench.progress(`fork, pause and resume after ${what} written to the disk`);
      const samples: Sample[] = [];
      for (let n = bench.quick ? 1 : 3; n > 0; n--) samples.push(await measureOnce(bench, mebibytes));
      const row = (step: string, of: (sample: Sample) => number): Row => {
        const measured = distributionOf(samples.map(of));
        const result = `${measured.p50.toFixed(0)} ms`;
        return { what: `${step}, ${what} written`, goal: "–", unit: "ms", measured, result, met: true };
      };
      rows.push(
        row("fork", ({ forkMs }) => forkMs),
        row("pause", ({ pauseMs }) => pauseMs),
        row("resume", ({ resumeMs }) => resumeMs),
        row("second pause after", ({ secondPauseMs }) => secondPauseMs),
      );
    }
    return rows;
  },
};

async function measureOnce({ daemon: { client } }: Bench, mebibytes: number): Promise<Sample> {
  const sandbox = await client.create();
  const write = `head -c ${mebibytes * 2 ** 20} /dev/urandom > /home/user/written && sync`;
  if ((await client.command(sandbox, write)).exitCode !== 0) throw new Error(`${mebibytes} MiB cannot be written`);
  await settle();
  let child: typeof sandbox | undefined;
  const forkMs = await timeMs(async () => {
    child = await client.fork(sandbox);
  });
  if (child) await client.kill(child);
  await settle();
  const pauseMs = await timeMs(() => client.pause(sandbox));
  await settle();
  const resumeMs = await timeMs(() => client.resume(sandbox));
  await client.command(sandbox, "echo more > /home/user/more");
  await settle();
  const secondPauseMs = await timeMs(() => client.pause(sandbox));
  await client.kill(sandbox);
  await settle();
  return { forkMs, pauseMs, resumeMs, secondPauseMs };
}
