/** Samples and lines of logs on their way to the ledger, where it matters less that they arrive than that one goes on. */
import type { Logger } from "../../log.ts";

/** A ledger that cannot be written is no reason not to answer from it, nor not to stop. What is pending stays so. */
export function tryFlush(pending: { flush(): void }, log: Logger): void {
  try {
    pending.flush();
  } catch (error) {
    log.warn({ err: error }, "samples or lines of logs could not be written");
  }
}
