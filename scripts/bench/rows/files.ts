/**
 * The rows of files of 64 MiB in and out, beside the guest link of a machine like it, and the growth of the daemon's
 * memory.
 */
import { type Bench, type RowFamily, timeMs } from "../bench.ts";
import type { BenchSandbox } from "../e2b-client.ts";
import { peakMemoryMiB } from "../processes.ts";
import type { RawMachine } from "../raw-engine.ts";
import { distributionOf, interleave, type Row } from "../statistics.ts";

const sizeBytes = 64 * 2 ** 20;
const chunkBytes = 64 * 1024;
const path = "/home/user/bench.bin";
const user = "user";
const goalPercent = 60;
/** Room for buffers and garbage, but not for the file. */
const growthGoalMiB = 32;

export const fileRows: RowFamily = {
  name: "files",
  async measure(bench) {
    const { client, pid } = bench.daemon;
    const machine = await bench.raw.restore();
    const sandbox = await client.create();
    try {
      bench.progress("files of 64 MiB");
      // The first transfers are not measured, because disk layers and the heap grow with them.
      await transfers(bench, machine, sandbox, 1);
      const before = await peakMemoryMiB(pid, async () => {});
      let rows: Row[] = [];
      const peak = await peakMemoryMiB(pid, async () => {
        rows = await transfers(bench, machine, sandbox, bench.quick ? 2 : 8);
      });
      return [...rows, growthRow(before, peak)];
    } finally {
      await client.kill(sandbox);
      await bench.raw.terminate(machine);
    }
  },
};

async function transfers(
  { daemon: { client } }: Bench,
  { agent }: RawMachine,
  sandbox: BenchSandbox,
  rounds: number,
): Promise<Row[]> {
  const content = Buffer.alloc(sizeBytes, "firkin");
  const up = await interleave(
    rounds,
    () => megabytesPerSecond(() => agent.write(path, chunksOf(content), { user })),
    () => megabytesPerSecond(() => client.upload(sandbox, path, content)),
  );
  const down = await interleave(
    rounds,
    () => megabytesPerSecond(async () => checkLength(await drain((await agent.read(path, { user })).bytes))),
    () => megabytesPerSecond(async () => checkLength(await client.download(sandbox, path))),
  );
  return [row("file upload, 64 MiB", up), row("file download, 64 MiB", down)];
}

function row(what: string, samples: { readonly raw: readonly number[]; readonly measured: readonly number[] }): Row {
  const [measured, raw] = [distributionOf(samples.measured), distributionOf(samples.raw)];
  const percent = (100 * measured.p50) / raw.p50;
  return {
    what,
    goal: `≥ ${goalPercent} % of raw`,
    unit: "MB/s",
    measured,
    raw,
    result: `${percent.toFixed(0)} % of raw`,
    met: percent >= goalPercent,
  };
}

function growthRow(beforeMiB: number, peakMiB: number): Row {
  const growthMiB = peakMiB - beforeMiB;
  return {
    what: "daemon RSS, growth over those transfers",
    goal: `flat: ≤ ${growthGoalMiB} MiB`,
    unit: "MiB",
    measured: distributionOf([growthMiB]),
    result: `${beforeMiB.toFixed(0)} → at most ${peakMiB.toFixed(0)} MiB`,
    met: growthMiB <= growthGoalMiB,
  };
}

const megabytesPerSecond = async (work: () => Promise<unknown>) => sizeBytes / 1e6 / ((await timeMs(work)) / 1000);

async function* chunksOf(bytes: Buffer): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += chunkBytes) yield bytes.subarray(at, at + chunkBytes);
}

async function drain(bytes: AsyncIterable<Uint8Array>): Promise<number> {
  let length = 0;
  for await (const chunk of bytes) length += chunk.length;
  return length;
}

function checkLength(length: number): void {
  if (length !== sizeBytes) throw new Error(`${length} bytes came back instead of ${sizeBytes}`);
}
