/**
 * Unfinished work: steps that outlive the request that caused them and are tried until they succeed, first of all the
 * end of a machine. Its capacity is released only after the machine is really gone, so that a failed try stays visible.
 */
import { type Clock, comesWithin } from "../../clock.ts";
import type { Ledger } from "../../ledger/open.ts";
import { endSandbox, moveSandbox } from "../../ledger/sandboxes.ts";
import type { ReachStep } from "../../lifecycle-steps.ts";
import type { Logger } from "../../log.ts";
import type { Metrics } from "../../metrics.ts";
import type { SandboxRecord } from "../../types.ts";
import { untilDone } from "../../until-done.ts";

/** How long the removal of a snapshot or template waits for kills that were answered and are still finishing. */
const settleMs = 2_000;

export interface UnfinishedWorkDependencies {
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly reach: ReachStep;
}

export class UnfinishedWork {
  readonly #deps: UnfinishedWorkDependencies;
  readonly #running = new Set<Promise<void>>();
  readonly #closing = new AbortController();

  constructor(deps: UnfinishedWorkDependencies) {
    this.#deps = deps;
  }

  /**
   * Ends the machine of a sandbox that is `terminating`, or that never got beyond `creating`, in the background.
   * @param destroy ends the machine and removes its files; called again, with pauses, until it succeeds
   */
  terminate(record: SandboxRecord, destroy: () => Promise<void>, onGone: () => void = () => {}): void {
    this.#start("end the machine of a sandbox", async () => {
      this.#deps.reach("kill.decided");
      let ended: SandboxRecord | undefined;
      await this.untilDone({ sandboxID: record.id }, async () => {
        await destroy();
        this.#deps.reach("kill.gone");
        ended = endInLedger(this.#deps.ledger, record);
      });
      if (!ended) return;
      this.#deps.metrics.sandboxesEnded.inc({ reason: ended.endReason ?? "lost" });
      onGone();
      this.#deps.reach("kill.released");
    });
  }

  /** Does a step that must not be left half-done, in the background: see {@link untilDone}. */
  finish(owner: Readonly<Record<string, string>>, step: () => Promise<void>): void {
    this.#start("finish a step", async () => void (await this.untilDone(owner, step)));
  }

  /**
   * Tries a step that must not be left half-done, with pauses, until it succeeds. Meanwhile its capacity stays
   * reserved.
   * @returns false when the daemon stops first; the next one goes on from the ledger
   */
  untilDone(owner: Readonly<Record<string, string>>, step: () => Promise<void>): Promise<boolean> {
    const { clock, log } = this.#deps;
    const onFailure = (error: unknown, retryMs: number) =>
      log.error({ err: error, ...owner, retryMs }, "a step failed; its capacity stays reserved");
    return untilDone(step, { clock, signal: this.#closing.signal, onFailure });
  }

  /** From now on every step is tried once. The next daemon goes on from the ledger. */
  stopRetrying(): void {
    this.#closing.abort();
  }

  /** Gives up retrying, and waits for the tries under way. */
  async close(): Promise<void> {
    this.stopRetrying();
    await this.idle();
  }

  /** Resolves when no work is left, including work that was started meanwhile. */
  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }

  /** As {@link idle}, but does not wait long for a machine that cannot be ended. */
  async settle(): Promise<void> {
    await comesWithin(this.#deps.clock, this.idle(), settleMs);
  }

  #start(name: string, work: () => Promise<void>): void {
    const running = work()
      .catch((error) => this.#deps.log.error({ err: error, work: name }, "background work failed"))
      .finally(() => this.#running.delete(running));
    this.#running.add(running);
  }
}

/** Writes down that the machine is gone; the ledger releases the reservation in the same transaction. */
function endInLedger(ledger: Ledger, { id, state }: SandboxRecord): SandboxRecord {
  if (state !== "creating") return endSandbox(ledger, id);
  return moveSandbox(ledger, id, "creating", "terminated", { endReason: "create_failed", endAtMs: ledger.nowMs() });
}
