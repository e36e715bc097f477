/**
 * The maker works ahead of demand, on one thing at a time: a machine for the warm pool, or a snapshot for the shelf. It
 * works while there is spare capacity and free disk, and rests longer after each failure.
 */
import type { Clock } from "../../clock.ts";
import { type DomainError, type ErrorCode, isDomainError } from "../../errors.ts";
import { type CapacityBudgets, findShortage, usage } from "../../ledger/capacity.ts";
import type { Ledger } from "../../ledger/open.ts";
import type { Logger } from "../../log.ts";
import type { MachineShape } from "../../types.ts";
import { BackOff } from "../../until-done.ts";
import type { DiskPressureGuard } from "../capacity/disk-guard.ts";

export interface MakerDependencies {
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly log: Logger;
  readonly budgets: CapacityBudgets;
  readonly disk: DiskPressureGuard;
}

export interface MakerOptions {
  /** The work, for the disk guard's error: `keep a sandbox warm`. */
  readonly work: string;
  readonly firstRetryMs: number;
  readonly longestRetryMs: number;
  /** Failures that are part of the plan: they are logged in these words, and not thrown. */
  readonly expected: readonly ErrorCode[];
  readonly expectedMessage: string;
}

export interface MakerJob {
  readonly shape: MachineShape;
  /** Whether nothing else is under way. */
  readonly isQuiet: () => boolean;
  readonly make: () => Promise<void>;
}

export class Maker {
  readonly #deps: MakerDependencies;
  readonly #options: MakerOptions;
  readonly #backOff: BackOff;
  /** Monotonic time before which nothing is made. */
  #restUntilMs = 0;

  constructor(deps: MakerDependencies, options: MakerOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#backOff = new BackOff(options.firstRetryMs, options.longestRetryMs);
  }

  /** Makes nothing for a while. */
  rest(ms: number): void {
    this.#restUntilMs = Math.max(this.#restUntilMs, this.#deps.clock.monotonicMs() + ms);
  }

  get isRested(): boolean {
    return this.#deps.clock.monotonicMs() >= this.#restUntilMs;
  }

  /** Does a job, unless something else is under way or there is no room. @throws a failure that was not expected */
  async tryMake(job: MakerJob, signal: AbortSignal): Promise<void> {
    if (!this.#mayMake(job)) return;
    const { work } = this.#options;
    try {
      await this.#deps.disk.admit(work, "refill");
      // A create may have come meanwhile.
      if (!this.#mayMake(job)) return;
      await job.make();
      this.#backOff.reset();
    } catch (error) {
      if (signal.aborted) return;
      this.rest(this.#backOff.next());
      if (!this.#isExpected(error)) throw error;
      this.#deps.log.info({ reason: error.message }, this.#options.expectedMessage);
    }
  }

  #mayMake({ shape, isQuiet }: MakerJob): boolean {
    const { ledger, budgets } = this.#deps;
    return this.isRested && isQuiet() && findShortage(usage(ledger), shape, budgets) === undefined;
  }

  #isExpected(error: unknown): error is DomainError {
    return this.#options.expected.some((code) => isDomainError(error, code));
  }
}
