/** Keepalives hold a server stream open while it has no events, and the stream ends with its request. */
import type { Clock } from "../clock.ts";

export interface StreamOptions {
  readonly clock: Clock;
  /** A keepalive is sent after this long without an event. */
  readonly keepaliveMs: number;
  /** Aborted when the client has left or its time is up. The reason becomes the stream's error. */
  readonly signal: AbortSignal;
}

const over = "the stream is over";

/**
 * The events of `source`, with `keepalive` in between whenever `keepaliveMs` passed without an event. An abort of the
 * signal returns the source, even when the result has no reader any more.
 */
export async function* withKeepalive<T>(
  source: AsyncIterator<T>,
  keepalive: T,
  { clock, keepaliveMs, signal }: StreamOptions,
): AsyncGenerator<T> {
  const stopped = new AbortController();
  let arrived: { result: IteratorResult<T> } | { error: unknown } | undefined;
  let asked = false;
  let idle = false;
  let lastMs = clock.monotonicMs();
  let wake = () => {};
  const onAbort = () => {
    void source.return?.();
    wake();
  };
  // There is one timer per stream, not per event. It compares with the time of the last event when it fires.
  const watchIdleness = async () => {
    while (!stopped.signal.aborted) {
      await clock.sleep(Math.max(1, lastMs + keepaliveMs - clock.monotonicMs()), stopped.signal);
      idle = clock.monotonicMs() - lastMs >= keepaliveMs;
      if (idle) {
        lastMs = clock.monotonicMs();
        wake();
      }
    }
  };
  const ask = () => {
    asked = true;
    source.next().then(
      (result) => {
        arrived = { result };
        wake();
      },
      (error: unknown) => {
        arrived = { error };
        wake();
      },
    );
  };
  signal.addEventListener("abort", onAbort, { once: true });
  watchIdleness().catch(() => {});
  try {
    if (signal.aborted) onAbort();
    while (!signal.aborted) {
      if (!asked) ask();
      if (!arrived && !idle) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      if (arrived) {
        if ("error" in arrived) throw arrived.error;
        const { result } = arrived;
        arrived = undefined;
        asked = false;
        if (result.done) return;
        yield result.value;
      } else if (idle) {
        yield keepalive;
      }
      idle = false;
      lastMs = clock.monotonicMs();
    }
    throw signal.reason;
  } finally {
    // The default reason would take a stack trace for every command.
    stopped.abort(over);
    signal.removeEventListener("abort", onAbort);
    await source.return?.();
  }
}
