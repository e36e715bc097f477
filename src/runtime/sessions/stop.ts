/**
 * A session stop is the graceful half of an end: the guest's processes are asked to end, then made to, and everything
 * they wrote is on the guest's disk. The caller ends the machine afterwards, whatever came of the stop.
 */
import { type Clock, comesWithin } from "../../clock.ts";
import { DomainError, messageOf } from "../../errors.ts";
import type { LiveSession } from "./live-session.ts";

/** After its deadline the guest kills the processes that are left, which may take 2 s, syncs, and answers. */
const answerGraceMs = 5_000;
/** From the answer until the guest has powered off, because the last output of its processes is still on its way. */
const powerOffMs = 1_000;

export class SessionStop {
  readonly #clock: Clock;
  /** The stops under way, by sandbox. */
  readonly #underWay = new Map<string, AbortController>();
  #closed = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Resolves when the guest has stopped, or failed to. Never throws. The caller ends the machine. */
  async stop(session: LiveSession, deadlineMs: number): Promise<void> {
    if (this.#closed) return;
    const hurry = new AbortController();
    this.#underWay.set(session.sandboxId, hurry);
    try {
      const answerMs = deadlineMs + answerGraceMs;
      const hasStopped = await comesWithin(this.#clock, session.agent.shutdown(deadlineMs), answerMs, hurry.signal);
      if (!hasStopped) throw new DomainError("deadline_exceeded", `no answer within ${answerMs} ms`);
      await comesWithin(this.#clock, session.vm.exited, powerOffMs, hurry.signal);
    } catch (error) {
      session.log.warn({ reason: messageOf(error) }, "the guest did not stop by itself");
    } finally {
      this.#underWay.delete(session.sandboxId);
      hurry.abort();
    }
  }

  /** Ends the wait of a stop, because the sandbox is to end now. */
  cutShort(sandboxId: string): void {
    this.#underWay.get(sandboxId)?.abort(new DomainError("cancelled", "the stop was cut short"));
  }

  /** Cuts all stops short, and skips those to come. */
  close(): void {
    this.#closed = true;
    for (const sandboxId of [...this.#underWay.keys()]) this.cutShort(sandboxId);
  }
}
