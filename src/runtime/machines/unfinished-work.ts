/**
 * The seed's SessionTerminator: ends a machine for good and releases its capacity only after the machine is really
 * gone. A failed attempt keeps the reservation, so that it is visible, and is tried again.
 */
import type { Clock } from "../../clock.ts";
import type { Ledger } from "../../ledger/open.ts";
import { endSandbox, moveSandbox } from "../../ledger/sandboxes.ts";
import type { ReachStep } from "../../lifecycle-steps.ts";
import type { Logger } from "../../log.ts";
import type { Metrics } from "../../metrics.ts";
import type { SandboxRecord } from "../../types.ts";
import { untilDone } from "../../until-done.ts";
import { Background } from "./background.ts";

/** A kill is answered before the last trace of its sandbox is gone: so long may who removes what it stood on wait. */
const settleMs = 2_000;

export interface TerminatorDependencies {
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly reach: ReachStep;
}

export class SessionTerminator {
  readonly #deps: TerminatorDependencies;
  readonly #background: Background;
  readonly #closing = new AbortController();

  constructor(deps: TerminatorDependencies) {
    this.#deps = deps;
    this.#background = new Background(deps.log);
  }

  /**
   * Ends what runs a sandbox that is `terminating`, or that never got beyond `creating`, in the background.
   * @param destroy ends the machine and removes its files; called again, with pauses, until it succeeds
   */
  terminate(record: SandboxRecord, destroy: () => Promise<void>, onGone: () => void = () => {}): void {
    this.#background.start("terminate session", async () => {
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

  /** Takes a step that must not be left half-done, in the background: see {@link untilDone}. */
  finish(owner: Readonly<Record<string, string>>, step: () => Promise<void>): void {
    this.#background.start("finish", async () => void (await this.untilDone(owner, step)));
  }

  /**
   * Tries a step that must not be left half-done, with pauses, until it succeeds. Meanwhile its capacity stays reserved.
   * @returns false when the daemon stops first: the next one goes on from the ledger
   */
  untilDone(owner: Readonly<Record<string, string>>, step: () => Promise<void>): Promise<boolean> {
    const { clock, log } = this.#deps;
    const onFailure = (error: unknown, retryMs: number) =>
      log.error({ err: error, ...owner, retryMs }, "a step failed; its capacity stays reserved");
    return untilDone(step, { clock, signal: this.#closing.signal, onFailure });
  }

  /** Gives up retrying (the next daemon goes on from the ledger) and waits for the attempts under way. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#background.idle();
  }

  /** Resolves when every termination has come to its end. */
  idle(): Promise<void> {
    return this.#background.idle();
  }

  /** As {@link idle}, but does not wait long for a machine that cannot be ended. */
  async settle(): Promise<void> {
    const settled = new AbortController();
    const soon = this.#deps.clock.sleep(settleMs, settled.signal).catch(() => {});
    await Promise.race([this.idle(), soon]);
    settled.abort();
  }
}

/** Says that the machine is gone; the ledger releases the reservation in the same transaction. */
function endInLedger(ledger: Ledger, { id, state }: SandboxRecord): SandboxRecord {
  if (state !== "creating") return endSandbox(ledger, id);
  return moveSandbox(ledger, id, "creating", "terminated", { endReason: "create_failed", endAtMs: ledger.nowMs() });
}
