/** The growth of a process's memory, computed from samples. Pure. */

export interface MemorySample {
  readonly atMs: number;
  readonly mib: number;
}

/** The first part of a process's life, in which it fills its caches. */
const settlingShare = 0.25;

/** The line of least squares through the samples after the process has settled. */
export function growthOf(samples: readonly MemorySample[]): {
  startMiB: number;
  endMiB: number;
  slopeMiBPerMinute: number;
} {
  const settled = samples.slice(Math.floor(samples.length * settlingShare));
  const [first, last] = [settled[0], settled.at(-1)];
  if (!first || !last) throw new Error("no sample of the daemon's memory was taken");
  const mean = (pick: (sample: MemorySample) => number) =>
    settled.reduce((sum, sample) => sum + pick(sample), 0) / settled.length;
  const [time, mib] = [mean(({ atMs }) => atMs), mean((sample) => sample.mib)];
  const covariance = mean((sample) => (sample.atMs - time) * (sample.mib - mib));
  const variance = mean(({ atMs }) => (atMs - time) ** 2);
  const perMs = variance === 0 ? 0 : covariance / variance;
  return { startMiB: first.mib, endMiB: last.mib, slopeMiBPerMinute: perMs * 60_000 };
}
