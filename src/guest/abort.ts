/** What this folder does with abort signals. */
import { DomainError } from "../errors.ts";

/** Why `signal` was aborted: its reason if that is one of ours, else `cancelled`. */
function abortReason(signal: AbortSignal): DomainError {
  const { reason } = signal;
  return reason instanceof DomainError ? reason : new DomainError("cancelled", "Cancelled", {}, { cause: reason });
}

/** @throws DomainError the reason, when `signal` is aborted. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortReason(signal);
}

/** Calls `abort` when `signal` is aborted, at once if it already is, until disposed. Without a signal, never. */
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
