/**
 * Admission: a create gets its reservation now, waits for it, or is refused. A create that does not fit waits in one
 * bounded queue, first come first served, and warm machines are evicted, oldest first, before a create waits for a
 * sandbox to end. The queue is looked at after every commit of the ledger, because any commit may have made room. This
 * room decides what fits on the host, and may call machines.
 */
import type { Clock } from "../../clock.ts";
import { DomainError, daemonStopping, isDomainError } from "../../errors.ts";
import {
  type CapacityBudgets,
  type CapacityShortage,
  capacityExhausted,
  findShortage,
  leavingUsage,
  usage,
} from "../../ledger/capacity.ts";
import type { Ledger } from "../../ledger/open.ts";
import type { Logger } from "../../log.ts";
import type { Metrics } from "../../metrics.ts";
import type { MachineShape } from "../../types.ts";
import {
  type AdmissionDecision,
  decideAdmission,
  type Evictable,
  planEvictions,
  type QueueBounds,
} from "./admission-plan.ts";

/** Machines made ahead of demand, as admission sees them. */
export interface EvictionSource {
  /** The machines that could make room, oldest first. */
  evictable(): readonly Evictable[];
  /** The shapes of machines that were evicted and are not gone yet. */
  leaving(): readonly MachineShape[];
  /** Ends machines in the background; their capacity is released when they are gone. */
  evict(ids: readonly string[]): void;
}

export interface AdmissionDependencies {
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Pick<Metrics, "admissions" | "admissionQueue">;
  readonly budgets: CapacityBudgets;
  readonly bounds: QueueBounds;
  readonly pool: EvictionSource;
}

/** A create that waits for its turn. */
interface Waiter {
  readonly shape: MachineShape;
  /** True when the create got its answer, false when there is still no room. */
  readonly tryAgain: () => boolean;
  readonly fail: (error: Error) => void;
}

/** How long a create waits for leaving machines to go when there is no queue. */
const leavingDeadlineMs = 10_000;

export class Admission {
  readonly #deps: AdmissionDependencies;
  readonly #waiting: Waiter[] = [];
  readonly #stopListening: () => void;
  #lookScheduled = false;
  #closed = false;

  constructor(deps: AdmissionDependencies) {
    this.#deps = deps;
    this.#stopListening = deps.ledger.onCommit(() => this.#lookSoon());
  }

  get queueLength(): number {
    return this.#waiting.length;
  }

  /**
   * Calls `attempt` when it is this create's turn, and gives its result.
   * @param attempt reserves capacity for `shape` in one transaction; throws `capacity_exhausted` when there is none
   * @param signal gives up the place in the queue, for the signal's reason; without a reason the client has left
   * @throws DomainError `capacity_exhausted` with the budget, the request, the rest, and whether the request is too
   *   large, the queue is full or the wait took too long; `not_ready` while the daemon stops; what `attempt` throws
   */
  async admit<T>(shape: MachineShape, attempt: () => T, signal?: AbortSignal): Promise<T> {
    if (this.#closed) throw daemonStopping();
    const { metrics, bounds } = this.#deps;
    // Where there is no queue nobody has a turn: creates that wait for machines that leave hold up no other.
    if (this.#waiting.length === 0 || bounds.timeoutMs === 0) {
      const now = tryOnce(attempt);
      if (now.admitted) {
        metrics.admissions.inc({ answer: "now" });
        return now.result;
      }
    }
    const decision = this.#decide(shape);
    if (decision.answer === "reject") {
      metrics.admissions.inc({ answer: decision.reason });
      throw this.#rejection(decision);
    }
    metrics.admissions.inc({ answer: decision.answer });
    return this.#wait(shape, decision.shortage, attempt, signal);
  }

  /** Refuses every create that waits. */
  close(): void {
    this.#closed = true;
    this.#stopListening();
    for (const waiter of [...this.#waiting]) waiter.fail(daemonStopping());
  }

  #decide(shape: MachineShape): AdmissionDecision {
    const { ledger, budgets, bounds } = this.#deps;
    const ahead = this.#waiting.map((waiter) => waiter.shape);
    return decideAdmission({ shape, usage: usage(ledger), leaving: leavingUsage(ledger), budgets, ahead, bounds });
  }

  #rejection({ reason, shortage }: Extract<AdmissionDecision, { answer: "reject" }>): DomainError {
    const pending = this.#waiting.length;
    const details = { reason, pending, maxPending: this.#deps.bounds.limit };
    return capacityExhausted(
      shortage,
      reason === "queue_full" ? `; ${pending} creates wait for it already` : "",
      details,
    );
  }

  #wait<T>(shape: MachineShape, shortage: CapacityShortage, attempt: () => T, signal?: AbortSignal): Promise<T> {
    const { clock, log, bounds } = this.#deps;
    const startedMs = clock.monotonicMs();
    return new Promise<T>((resolve, reject) => {
      const settled = new AbortController();
      const settle = (answer: () => void) => {
        if (settled.signal.aborted) return;
        settled.abort();
        signal?.removeEventListener("abort", onGone);
        this.#leave(waiter);
        log.debug({ waitedMs: clock.monotonicMs() - startedMs }, "a create no longer waits for capacity");
        answer();
      };
      const waiter: Waiter = {
        shape,
        tryAgain: () => {
          try {
            const turn = tryOnce(attempt);
            if (turn.admitted) settle(() => resolve(turn.result));
            return turn.admitted;
          } catch (error) {
            settle(() => reject(error));
            return true;
          }
        },
        fail: (error) => settle(() => reject(error)),
      };
      const onGone = () => waiter.fail(leavingReason(signal?.reason));
      const onTimeout = () => waiter.fail(this.#timeout(waiter, shortage, clock.monotonicMs() - startedMs));
      this.#join(waiter, shortage);
      if (signal?.aborted) return onGone();
      signal?.addEventListener("abort", onGone, { once: true });
      clock.sleep(bounds.timeoutMs || leavingDeadlineMs, settled.signal).then(onTimeout, () => {});
    });
  }

  #timeout(waiter: Waiter, shortageAtFirst: CapacityShortage, waitedMs: number): DomainError {
    const { metrics, ledger, budgets } = this.#deps;
    metrics.admissions.inc({ answer: "timed_out" });
    const position = this.#waiting.indexOf(waiter) + 1;
    const shortage = findShortage(usage(ledger), waiter.shape, budgets) ?? shortageAtFirst;
    const waitedS = Math.round(waitedMs / 100) / 10;
    const note = `; waited ${waitedS} s for it, at place ${position} of ${this.#waiting.length}`;
    return capacityExhausted(shortage, note, { reason: "timed_out", position, waitedMs });
  }

  #join(waiter: Waiter, shortage: CapacityShortage): void {
    this.#waiting.push(waiter);
    const position = this.#waiting.length;
    this.#deps.metrics.admissionQueue.set(position);
    this.#deps.log.info({ position, ...shortage }, "a create waits for capacity");
    this.#lookSoon();
  }

  #leave(waiter: Waiter): void {
    this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
    this.#deps.metrics.admissionQueue.set(this.#waiting.length);
    this.#lookSoon();
  }

  /** Looks at the queue after the current task, because a commit may be in the middle of one. */
  #lookSoon(): void {
    if (this.#lookScheduled || this.#waiting.length === 0) return;
    this.#lookScheduled = true;
    queueMicrotask(() => {
      this.#lookScheduled = false;
      this.#look();
    });
  }

  /** Admits creates from the front while there is room, and evicts machines for as many of the others as that helps. */
  #look(): void {
    while (this.#waiting[0]?.tryAgain()) {}
    if (this.#waiting.length === 0) return;
    const { ledger, budgets, pool } = this.#deps;
    const waiting = this.#waiting.map(({ shape }) => shape);
    const evictable = pool.evictable();
    const evictions = planEvictions({ usage: usage(ledger), budgets, waiting, evictable, leaving: pool.leaving() });
    if (evictions.length > 0) pool.evict(evictions);
  }
}

type Attempt<T> = { readonly admitted: true; readonly result: T } | { readonly admitted: false };

function tryOnce<T>(attempt: () => T): Attempt<T> {
  try {
    return { admitted: true, result: attempt() };
  } catch (error) {
    if (isDomainError(error, "capacity_exhausted")) return { admitted: false };
    throw error;
  }
}

function leavingReason(reason: unknown): DomainError {
  return reason instanceof DomainError ? reason : new DomainError("cancelled", "the client has left");
}
