/** The latency samples go into the Prometheus histogram at once, and into the ledger in batches. */
import type { Clock } from "../clock.ts";
import type { EngineInfo } from "../machine/driver.ts";
import type { Metrics } from "../metrics.ts";
import type { LatencySample, Scenario, SpanName } from "../types.ts";

/** The samples that wait when the ledger cannot be written, which is more than come in between two flushes. */
const maxUnwritten = 10_000;

export class LifecycleSamples {
  readonly #clock: Clock;
  readonly #engine: EngineInfo;
  readonly #metrics: Metrics;
  readonly #write: (samples: readonly LatencySample[]) => void;
  /** The samples since the last flush that succeeded. */
  #pending: LatencySample[] = [];

  constructor(clock: Clock, engine: EngineInfo, metrics: Metrics, write: (samples: readonly LatencySample[]) => void) {
    this.#clock = clock;
    this.#engine = engine;
    this.#metrics = metrics;
    this.#write = write;
  }

  /** @param scenario the operation that the span was a part of; the histogram, which must stay small, leaves it out */
  record(span: SpanName, scenario: Scenario, durationMs: number, sandboxId: string | null): void {
    const { engine, acceleration } = this.#engine;
    this.#metrics.lifecycleSeconds.observe({ span, engine, acceleration }, durationMs / 1000);
    this.#pending.push({ span, scenario, durationMs, engine, acceleration, sandboxId, atMs: this.#clock.nowMs() });
  }

  /** Writes the pending samples to the ledger. On failure the newest 10,000 samples are kept for the next flush. */
  flush(): void {
    if (this.#pending.length === 0) return;
    const samples = this.#pending;
    this.#pending = [];
    try {
      this.#write(samples);
    } catch (error) {
      this.#pending = samples.slice(-maxUnwritten);
      throw error;
    }
  }
}
