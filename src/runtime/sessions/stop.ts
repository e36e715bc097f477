/**
 * The seed's RuntimeSessionStop, the graceful half of an end: the guest's processes are asked to end, then made to, and
 * what they wrote is on its disk. The final half is the `UnfinishedWork`'s, whatever comes of this one.
 */
import type { Clock } from "../../clock.ts";
import { DomainError, messageOf } from "../../errors.ts";
import type { LiveSession } from "./live-session.ts";

/** After its deadline the guest kills what is left, which may take 2 s, syncs, and answers. */
const answerGraceMs = 5_000;
/** From the answer until the guest has powered off: what its processes said last is on its way to clients. */
const powerOffMs = 1_000;

export class SessionStop {
  readonly #clock: Clock;
  /** By sandbox. */
  readonly #underWay = new Map<string, AbortController>();
  #closed = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Resolves when the guest has stopped, or will not: it never fails. The machine is the caller's to end. */
  async stop(session: LiveSession, deadlineMs: number): Promise<void> {
    if (this.#closed) return;
    const hurry = new AbortController();
    this.#underWay.set(session.sandboxId, hurry);
    try {
      const late = this.#clock.sleep(deadlineMs + answerGraceMs, hurry.signal).then(() => {
        throw new DomainError("deadline_exceeded", `no answer within ${deadlineMs + answerGraceMs} ms`);
      });
      await Promise.race([session.agent.shutdown(deadlineMs), late]);
      await Promise.race([session.vm.exited, this.#clock.sleep(powerOffMs, hurry.signal)]);
    } catch (error) {
      session.log.warn({ reason: messageOf(error) }, "a guest did not stop by itself");
    } finally {
      this.#underWay.delete(session.sandboxId);
      hurry.abort();
    }
  }

  /** Somebody wants the sandbox gone now: its stop waits no longer. */
  cutShort(sandboxId: string): void {
    this.#underWay.get(sandboxId)?.abort(new DomainError("cancelled", "it was cut short"));
  }

  /** Cuts all of them short, those to come too. */
  close(): void {
    this.#closed = true;
    for (const sandboxId of [...this.#underWay.keys()]) this.cutShort(sandboxId);
  }
}
