/** The row of eight creates at once, beside the time that the processors would take for as many raw restores. */
import { type Bench, type RowFamily, settle, timeMs } from "../bench.ts";
import { distributionOf } from "../statistics.ts";

const count = 8;
const goal = 1.3;

interface Round {
  /** One restore alone. */
  readonly restoreMs: number;
  readonly rawWallMs: number;
  readonly wallMs: number;
}

export const burstRows: RowFamily = {
  name: "burst",
  async measure(bench) {
    bench.progress(`${count} creates at once`);
    const rounds: Round[] = [];
    for (let round = bench.quick ? 2 : 10; round > 0; round--) rounds.push(await measureRound(bench));
    const restore = distributionOf(rounds.map(({ restoreMs }) => restoreMs));
    const wall = distributionOf(rounds.map(({ wallMs }) => wallMs));
    const rawWall = distributionOf(rounds.map(({ rawWallMs }) => rawWallMs));
    const idealMs = (count * restore.p50) / bench.cores;
    const ratio = wall.p50 / idealMs;
    const aside = `the raw engine's own ${count} at once: ${(rawWall.p50 / idealMs).toFixed(2)} ×`;
    return [
      {
        what: `${count} creates at once, pool empty (raw: one restore alone)`,
        goal: `≤ ${goal} × ${count} raw restores ÷ ${bench.cores} cores`,
        unit: "ms",
        measured: wall,
        raw: restore,
        result: `${ratio.toFixed(2)} × (${aside})`,
        met: ratio <= goal,
      },
    ];
  },
};

async function measureRound({ raw, daemon }: Bench): Promise<Round> {
  await settle();
  const startedMs = performance.now();
  const one = await raw.restore();
  const restoreMs = performance.now() - startedMs;
  await raw.terminate(one);
  await settle();
  const rawWallMs = await timeMs(async () => {
    await atOnce(() => raw.restore());
  });
  await raw.terminateAll();
  await settle();
  const wallMs = await timeMs(async () => {
    await atOnce(() => daemon.client.create());
  });
  await daemon.killAll();
  return { restoreMs, rawWallMs, wallMs };
}

const atOnce = <T>(start: () => Promise<T>) => Promise.all(Array.from({ length: count }, start));
