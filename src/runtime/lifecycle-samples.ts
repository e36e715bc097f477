/** Where every latency sample goes: at once into the Prometheus histogram, in batches into the ledger. */
import type { Clock } from "../clock.ts";
import type { EngineInfo } from "../machine/driver.ts";
import type { Metrics } from "../metrics.ts";
import type { LatencySample, Scenario, SpanName } from "../types.ts";

/** When the ledger cannot be written: more than it takes in between two flushes. */
const maxUnwritten = 10_000;

export class LifecycleSamples {
  readonly #clock: Clock;
  readonly #engine: EngineInfo;
  readonly #metrics: Metrics;
  readonly #write: (samples: readonly LatencySample[]) => void;
  /** Taken since the last flush that succeeded. */
  #pending: LatencySample[] = [];

  constructor(clock: Clock, engine: EngineInfo, metrics: Metrics, write: (samples: readonly LatencySample[]) => void) {
    this.#clock = clock;
    this.#engine = engine;
    this.#metrics = metrics;
    this.#write = write;
  }

  /** @param scenario what the span was a part of; the histogram, which must stay small, does not tell them apart */
  record(span: SpanName, scenario: Scenario, durationMs: number, sandboxId: string | null): void {
    const { engine, acceleration } = this.#engine;
    this.#metrics.lifecycleSeconds.observe({ span, engine, acceleration }, durationMs / 1000);
    this.#pending.push({ span, scenario, durationMs, engine, acceleration, sandboxId, atMs: this.#clock.nowMs() });
  }

  /** Hands what is pending to the ledger. What it does not take waits for the next time, the newest of it. */
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
