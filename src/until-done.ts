/** The one shape of a step that must not be left half-done: an end of a machine, or what the ledger has to say of one. */
import type { Clock } from "./clock.ts";

const firstRetryMs = 250;
const longestRetryMs = 30_000;

/** When it is tried again, and who hears of a try that failed. */
export interface Persistence {
  readonly clock: Clock;
  /** Gives up after the try under way: the next daemon goes on from the ledger. */
  readonly signal: AbortSignal;
  readonly onFailure: (error: unknown, retryMs: number) => void;
}

/**
 * Tries a step, with pauses, until it succeeds.
 * @returns false when it was given up
 */
export async function untilDone(
  step: () => void | Promise<void>,
  { clock, signal, onFailure }: Persistence,
): Promise<boolean> {
  for (let retryMs = firstRetryMs; ; retryMs = Math.min(retryMs * 2, longestRetryMs)) {
    try {
      await step();
      return true;
    } catch (error) {
      onFailure(error, retryMs);
    }
    await clock.sleep(retryMs, signal).catch(() => {});
    if (signal.aborted) return false;
  }
}
