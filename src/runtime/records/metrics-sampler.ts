/**
 * The metrics sampler takes the 5-second samples behind `GET /sandboxes/{id}/metrics`: a bounded series for each
 * sandbox, in memory, that goes on over pauses.
 */
import type { Clock } from "../../clock.ts";
import type { GuestMetrics } from "../../types.ts";
import type { SandboxMetricSample } from "../contract.ts";
import type { Session } from "../sessions/session.ts";

/** Two hours of 5-second samples. */
const keptSamples = 1440;

interface MetricSeries {
  readonly samples: SandboxMetricSample[];
  /** The latest metrics, and their session, because the counters begin anew with another session. */
  previous: { readonly session: Session; readonly metrics: GuestMetrics } | undefined;
}

export class MetricsSampler {
  readonly #clock: Clock;
  readonly #onAnswer: (session: Session) => void;
  readonly #series = new Map<string, MetricSeries>();

  constructor(clock: Clock, onAnswer: (session: Session) => void) {
    this.#clock = clock;
    this.#onAnswer = onAnswer;
  }

  /**
   * Takes one sample of every session at once, and leaves out a session if its agent does not answer. The series of
   * sandboxes that are not `there` any more are forgotten.
   */
  async sampleAll(sessions: Iterable<Session>, there: (sandboxId: string) => boolean): Promise<void> {
    await Promise.all([...sessions].map((session) => this.#sample(session)));
    for (const id of this.#series.keys()) if (!there(id)) this.#series.delete(id);
  }

  /** The samples of a sandbox within a range, oldest first. */
  samples(sandboxId: string, range: { fromMs?: number; toMs?: number }): SandboxMetricSample[] {
    const { fromMs = 0, toMs = Number.POSITIVE_INFINITY } = range;
    return (this.#series.get(sandboxId)?.samples ?? []).filter(({ atMs }) => atMs >= fromMs && atMs <= toMs);
  }

  async #sample(session: Session): Promise<void> {
    let metrics: GuestMetrics;
    try {
      metrics = await session.agent.metrics();
    } catch (error) {
      if (!session.ended.aborted) session.log.debug({ err: error }, "the agent did not answer for a metrics sample");
      return;
    }
    this.#onAnswer(session);
    const series = this.#series.get(session.sandboxId) ?? { samples: [], previous: undefined };
    this.#series.set(session.sandboxId, series);
    const { previous } = series;
    series.samples.push({
      atMs: this.#clock.nowMs(),
      cpuCount: metrics.cpuCount,
      cpuUsedPercent: cpuUsedPercent(previous?.session === session ? previous.metrics : undefined, metrics),
      memUsedBytes: metrics.memUsedBytes,
      memTotalBytes: metrics.memTotalBytes,
      memCacheBytes: metrics.memCacheBytes,
      diskUsedBytes: metrics.diskUsedBytes,
      diskTotalBytes: metrics.diskTotalBytes,
    });
    if (series.samples.length > keptSamples) series.samples.shift();
    series.previous = { session, metrics };
  }
}

/**
 * The use of all CPUs together, in percent: 200 means that two CPUs were busy all the time since the previous sample.
 */
function cpuUsedPercent(previous: GuestMetrics | undefined, current: GuestMetrics): number {
  const busy = current.cpuBusyTicks - (previous?.cpuBusyTicks ?? 0);
  const total = current.cpuTotalTicks - (previous?.cpuTotalTicks ?? 0);
  if (total <= 0) return 0;
  return Math.round((busy / total) * current.cpuCount * 10_000) / 100;
}
