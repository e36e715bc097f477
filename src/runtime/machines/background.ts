/** Work that outlives the request that caused it, counted so that shutdown can wait for it. */
import type { Logger } from "../../log.ts";

export class Background {
  readonly #log: Logger;
  readonly #running = new Set<Promise<void>>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Starts `work`; its failure is logged under `name`, nothing else hears of it. */
  start(name: string, work: () => Promise<void>): void {
    const running = work()
      .catch((error) => this.#log.error({ err: error, work: name }, "background work failed"))
      .finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  get count(): number {
    return this.#running.size;
  }

  /** Resolves when no work is left, including work started meanwhile. */
  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }
}
