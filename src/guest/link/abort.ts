/** Abort signals: their reason as a {@link DomainError}, and a listener that is disposed of. */
import { DomainError } from "../../errors.ts";

/** The reason of an aborted `signal`: its own if that is a DomainError, otherwise `cancelled`. */
function abortReason(signal: AbortSignal): DomainError {
  const { reason } = signal;
  return reason instanceof DomainError ? reason : new DomainError("cancelled", "Cancelled", {}, { cause: reason });
}

/** @throws DomainError the reason, when `signal` is aborted. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortReason(signal);
}

/**
 * Calls `abort` when `signal` is aborted, or at once if it already is, until disposed. Without a signal, never calls
 * it.
 */
export function onAbort(signal: AbortSignal | undefined, abort: (reason: DomainError) => void): Disposable {
  if (!signal) return { [Symbol.dispose]() {} };
  const listener = () => abort(abortReason(signal));
  if (signal.aborted) listener();
  else signal.addEventListener("abort", listener, { once: true });
  return {
    [Symbol.dispose]() {
      signal.removeEventListener("abort", listener);
    },
  };
}
