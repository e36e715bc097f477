/** The clock is a parameter: the daemon gets {@link systemClock}, and tests get a clock that they move by hand. */
import { setTimeout as delay } from "node:timers/promises";

export interface Clock {
  /** Wall clock, milliseconds since the epoch. */
  nowMs(): number;
  /** Monotonic time in milliseconds, with fractions; only differences have a meaning. */
  monotonicMs(): number;
  /** Resolves after `ms`; rejects with the signal's reason when aborted. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** Both times at one moment, in milliseconds. */
export interface ClockReading {
  readonly wallMs: number;
  readonly monotonicMs: number;
}

export function readClock(clock: Clock): ClockReading {
  return { wallMs: clock.nowMs(), monotonicMs: clock.monotonicMs() };
}

/** A smaller difference of the two clocks is their drift. */
const jumpMs = 1_000;
/** After a longer time without a look the host slept, because some systems' monotonic clock runs on during a sleep. */
const sleepMs = 30_000;

/**
 * Whole milliseconds by which the wall clock went on between two looks while the daemon did not work: the host slept, or its
 * clock was set. Negative when the clock was set back; 0 when it went on as it should.
 */
export function idleTimeBetween(before: ClockReading, now: ClockReading): number {
  const passedMs = now.monotonicMs - before.monotonicMs;
  const aheadMs = now.wallMs - before.wallMs - passedMs;
  // Deadlines are whole milliseconds, and the monotonic clock has fractions.
  return Math.round((Math.abs(aheadMs) >= jumpMs ? aheadMs : 0) + (passedMs >= sleepMs ? passedMs : 0));
}

/**
 * Waits for an event, and no longer than `ms`.
 * @param signal ends the wait
 * @returns whether it came in time
 * @throws what the event rejects with; the signal's reason
 */
export async function comesWithin(
  clock: Clock,
  event: Promise<unknown>,
  ms: number,
  signal?: AbortSignal,
): Promise<boolean> {
  const waited = new AbortController();
  const late = clock.sleep(ms, signal ? AbortSignal.any([signal, waited.signal]) : waited.signal);
  try {
    return await Promise.race([event.then(() => true), late.then(() => false)]);
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  } finally {
    late.catch(() => {});
    waited.abort();
  }
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  sleep: async (ms, signal) => {
    await delay(ms, undefined, signal ? { signal } : undefined);
  },
};
