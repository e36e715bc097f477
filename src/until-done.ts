/** Steps that must not be left half-done, such as the end of a machine or its entry in the ledger, are tried again. */
import type { Clock } from "./clock.ts";

/** The pauses between tries: each is twice as long as the one before it, up to a longest one. */
export class BackOff {
  readonly #firstMs: number;
  readonly #longestMs: number;
  #nextMs: number;

  constructor(firstMs: number, longestMs: number) {
    this.#firstMs = firstMs;
    this.#longestMs = longestMs;
    this.#nextMs = firstMs;
  }

  /** The pause after a failure. */
  next(): number {
    const pauseMs = this.#nextMs;
    this.#nextMs = Math.min(pauseMs * 2, this.#longestMs);
    return pauseMs;
  }

  /** Begins again with the first pause, because a try succeeded. */
  reset(): void {
    this.#nextMs = this.#firstMs;
  }
}

const firstRetryMs = 250;
const longestRetryMs = 30_000;

/** The terms of a retried step. */
export interface Persistence {
  readonly clock: Clock;
  /** Ends the retries after the try under way. The next daemon goes on from the ledger. */
  readonly signal: AbortSignal;
  /** Hears of every try that failed, and of the pause until the next. */
  readonly onFailure: (error: unknown, retryMs: number) => void;
}

/**
 * Tries a step, with pauses, until it succeeds.
 * @returns false when the signal ended the retries before a success
 */
export async function untilDone(
  step: () => void | Promise<void>,
  { clock, signal, onFailure }: Persistence,
): Promise<boolean> {
  const backOff = new BackOff(firstRetryMs, longestRetryMs);
  for (;;) {
    let retryMs: number;
    try {
      await step();
      return true;
    } catch (error) {
      retryMs = backOff.next();
      onFailure(error, retryMs);
    }
    await clock.sleep(retryMs, signal).catch(() => {});
    if (signal.aborted) return false;
  }
}
