/** The upkeep of the template `base`: looks now and then whether it is up to date, and at once when it is damaged. */
import type { Clock } from "../../clock.ts";
import type { Ledger } from "../../ledger/open.ts";
import { BackOff } from "../../until-done.ts";
import { isBaseDamaged } from "./damage.ts";

/** Time between two looks at the ingredients and files of a template that nobody found damaged. */
const lookMs = 60_000;
const retry = { firstMs: 1_000, longestMs: 60_000 } as const;

export interface BaseUpkeepDependencies {
  readonly ledger: Ledger;
  readonly clock: Clock;
  /** Makes the template anew if that is needed. */
  readonly ensure: (signal: AbortSignal) => Promise<void>;
}

export class BaseUpkeep {
  readonly #deps: BaseUpkeepDependencies;
  readonly #backOff = new BackOff(retry.firstMs, retry.longestMs);
  /** Monotonic. */
  #lookAtMs = 0;
  #notBeforeMs = 0;

  constructor(deps: BaseUpkeepDependencies) {
    this.#deps = deps;
  }

  /** To be called every second. @throws what `ensure` throws; it is tried again later */
  async tick(signal: AbortSignal): Promise<void> {
    const { ledger, clock, ensure } = this.#deps;
    const nowMs = clock.monotonicMs();
    if (nowMs < this.#notBeforeMs || (nowMs < this.#lookAtMs && !isBaseDamaged(ledger))) return;
    try {
      await ensure(signal);
      this.#lookAtMs = clock.monotonicMs() + lookMs;
      this.#backOff.reset();
    } catch (error) {
      this.#notBeforeMs = clock.monotonicMs() + this.#backOff.next();
      throw error;
    }
  }
}
