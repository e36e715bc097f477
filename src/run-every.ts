/** The background loop, which refill, deadlines, heartbeats and samples share. */
import type { Clock } from "./clock.ts";

/**
 * Calls `tick` now, and again `intervalMs` after each call has ended, so that calls never overlap, until disposed.
 * Errors go to `onError` and never end the loop. Disposal waits for the tick under way.
 */
export function runEvery(
  clock: Clock,
  intervalMs: number,
  tick: (signal: AbortSignal) => void | Promise<void>,
  onError: (error: unknown) => void,
): AsyncDisposable {
  const stop = new AbortController();
  const { signal } = stop;
  const loop = (async () => {
    while (!signal.aborted) {
      try {
        await tick(signal);
      } catch (error) {
        if (!signal.aborted) onError(error);
      }
      await clock.sleep(intervalMs, signal).catch(() => {});
    }
  })();
  return {
    async [Symbol.asyncDispose]() {
      stop.abort();
      await loop;
    },
  };
}
