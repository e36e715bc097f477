/** The best-effort flush of samples and log lines: a ledger that cannot be written is logged, not thrown. */
import type { Logger } from "../../log.ts";

/** Flushes before an answer or a stop, which go on without the flush. Pending entries stay pending when it fails. */
export function tryFlush(pending: { flush(): void }, log: Logger): void {
  try {
    pending.flush();
  } catch (error) {
    log.warn({ err: error }, "pending samples or log lines could not be written to the ledger");
  }
}
