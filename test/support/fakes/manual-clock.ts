/** The manual clock: a clock that tests move by hand. */
import type { Clock } from "../../../src/clock.ts";

export class ManualClock implements Clock {
  #ms = 1_000_000;
  /** How far the wall clock is ahead of where it began. */
  #jumpedMs = 0;
  readonly #sleepers = new Set<{ dueMs: number; wake: () => void }>();

  nowMs(): number {
    return this.#ms + this.#jumpedMs;
  }

  monotonicMs(): number {
    return this.#ms;
  }

  /** How many sleepers wait now; an aborted one is not counted. */
  get sleeperCount(): number {
    return this.#sleepers.size;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      const sleeper = {
        dueMs: this.#ms + ms,
        wake: () => {
          signal?.removeEventListener("abort", onAbort);
          resolve();
        },
      };
      const onAbort = () => {
        this.#sleepers.delete(sleeper);
        reject(signal?.reason);
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#sleepers.add(sleeper);
    });
  }

  /** Sets the wall clock on, or back, or the host sleeps for so long. No time passes for the daemon. */
  jump(ms: number): void {
    this.#jumpedMs += ms;
  }

  /** Moves time and lets everything that was due run. */
  async advance(ms: number): Promise<void> {
    this.#ms += ms;
    for (const sleeper of [...this.#sleepers]) {
      if (sleeper.dueMs > this.#ms) continue;
      this.#sleepers.delete(sleeper);
      sleeper.wake();
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
}
