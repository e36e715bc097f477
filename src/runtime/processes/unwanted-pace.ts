/**
 * The unwanted pace says how fast output is taken that no subscriber reads. Log and tape keep only a little of it, so
 * that a process which puts out more than this waits, instead of costing the daemon for nothing.
 */
import type { Clock } from "../../clock.ts";

/** Bytes per second, and the bytes that are taken at once after a pause. */
const bytesPerSecond = 4 * 1024 * 1024;
const burstBytes = 1024 * 1024;
/** Counted for each chunk besides its bytes, because small chunks cost the daemon almost as much as large ones. */
const chunkCostBytes = 4 * 1024;
/** Shorter waits are put off, because each of them costs a timer. */
const shortestWaitMs = 20;

export class UnwantedPace {
  readonly #clock: Clock;
  /** Monotonic time at which everything that was taken so far is paid for. */
  #paidAtMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Counts a chunk. Returns how long to wait before the next one is taken, ms; 0 when it may be taken at once. */
  take(chunkBytes: number): number {
    const nowMs = this.#clock.monotonicMs();
    const burstMs = (burstBytes / bytesPerSecond) * 1_000;
    const costMs = ((chunkBytes + chunkCostBytes) / bytesPerSecond) * 1_000;
    this.#paidAtMs = Math.max(this.#paidAtMs, nowMs - burstMs) + costMs;
    const waitMs = this.#paidAtMs - nowMs;
    return waitMs >= shortestWaitMs ? waitMs : 0;
  }
}
