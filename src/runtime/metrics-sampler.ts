/** Takes the 5-second samples behind `GET /sandboxes/{id}/metrics`: a bounded series per live session, in memory. */
import type { Clock } from "../clock.ts";
import type { GuestMetrics } from "../types.ts";
import type { SandboxMetricSample } from "./runtime.ts";
import type { Session } from "./session.ts";

/** Two hours of 5-second samples. */
const keptSamples = 1440;

interface Series {
  readonly samples: SandboxMetricSample[];
  previous: GuestMetrics | undefined;
}

export class MetricsSampler {
  readonly #clock: Clock;
  readonly #series = new WeakMap<Session, Series>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Takes one sample of every session at once; a session whose agent does not answer is left out this time. */
  async sampleAll(sessions: Iterable<Session>): Promise<void> {
    await Promise.all([...sessions].map((session) => this.#sample(session)));
  }

  /** Oldest first. */
  samples(session: Session, range: { fromMs?: number; toMs?: number }): SandboxMetricSample[] {
    const { fromMs = 0, toMs = Number.POSITIVE_INFINITY } = range;
    return (this.#series.get(session)?.samples ?? []).filter(({ atMs }) => atMs >= fromMs && atMs <= toMs);
  }

  async #sample(session: Session): Promise<void> {
    let metrics: GuestMetrics;
    try {
      metrics = await session.agent.metrics();
    } catch (error) {
      if (!session.ended.aborted) session.log.debug({ err: error }, "no metrics sample");
      return;
    }
    const series = this.#series.get(session) ?? { samples: [], previous: undefined };
    this.#series.set(session, series);
    series.samples.push({
      atMs: this.#clock.nowMs(),
      cpuCount: metrics.cpuCount,
      cpuUsedPercent: cpuUsedPercent(series.previous, metrics),
      memUsedBytes: metrics.memUsedBytes,
      memTotalBytes: metrics.memTotalBytes,
      memCacheBytes: metrics.memCacheBytes,
      diskUsedBytes: metrics.diskUsedBytes,
      diskTotalBytes: metrics.diskTotalBytes,
    });
    if (series.samples.length > keptSamples) series.samples.shift();
    series.previous = metrics;
  }
}

/** Of all CPUs together, in percent: 200 means two CPUs were busy all the time since the previous sample. */
export function cpuUsedPercent(previous: GuestMetrics | undefined, current: GuestMetrics): number {
  const busy = current.cpuBusyTicks - (previous?.cpuBusyTicks ?? 0);
  const total = current.cpuTotalTicks - (previous?.cpuTotalTicks ?? 0);
  if (total <= 0) return 0;
  return Math.round((busy / total) * current.cpuCount * 10_000) / 100;
}
