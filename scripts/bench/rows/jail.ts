/** The row of the jail: a restore to the agent's first answer, behind the walls and without them. */
import { type Bench, type RowFamily, settle, timeMs } from "../bench.ts";
import type { RawMachine } from "../raw-engine.ts";
import { distributionOf, interleave } from "../statistics.ts";
import { withoutJail } from "../without-jail.ts";

const goalMs = 3;

export const jailRows: RowFamily = {
  name: "jail",
  async measure(bench) {
    bench.progress("restores in the jail and without it in turn");
    const jailed = () => restore(bench);
    const direct = () => withoutJail(() => restore(bench));
    // The first samples warm the page cache and the compilers.
    await interleave(2, direct, jailed);
    const { raw, measured } = await interleave(bench.quick ? 10 : 200, direct, jailed);
    const [ours, theirs] = [distributionOf(measured), distributionOf(raw)];
    const costMs = ours.p50 - theirs.p50;
    return [
      {
        what: "the jail: restore to the agent's first answer (raw: the same engine started directly)",
        goal: `raw + ≤ ${goalMs} ms p50`,
        unit: "ms",
        measured: ours,
        raw: theirs,
        result: `raw + ${costMs.toFixed(2)} ms`,
        met: costMs <= goalMs,
      },
    ];
  },
};

async function restore({ raw }: Bench): Promise<number> {
  let machine: RawMachine | undefined;
  const durationMs = await timeMs(async () => {
    machine = await raw.restore();
  });
  if (machine) await raw.terminate(machine);
  await settle();
  return durationMs;
}
