/** The team metrics: how many sandboxes run and how fast they start, as a bounded series in memory since the start. */
import type { Clock } from "../../clock.ts";
import type { TeamMetricSample } from "../contract.ts";

/** Two hours of 5-second samples. */
const keptSamples = 1_440;

export class TeamMetrics {
  readonly #clock: Clock;
  readonly #samples: TeamMetricSample[] = [];
  #starts = 0;
  #sampledMs: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#sampledMs = clock.monotonicMs();
  }

  /** Counts a sandbox that starts or is resumed. */
  countStart(): void {
    this.#starts += 1;
  }

  sample(concurrentSandboxes: number): void {
    const nowMs = this.#clock.monotonicMs();
    const seconds = (nowMs - this.#sampledMs) / 1000;
    if (seconds <= 0) return;
    const startsPerSecond = Math.round((this.#starts / seconds) * 1000) / 1000;
    this.#samples.push({ atMs: this.#clock.nowMs(), concurrentSandboxes, startsPerSecond });
    if (this.#samples.length > keptSamples) this.#samples.shift();
    this.#starts = 0;
    this.#sampledMs = nowMs;
  }

  /** The samples within a range, oldest first. */
  samples({ fromMs = 0, toMs = Number.POSITIVE_INFINITY }: { fromMs?: number; toMs?: number }): TeamMetricSample[] {
    return this.#samples.filter(({ atMs }) => atMs >= fromMs && atMs <= toMs);
  }
}
