/**
 * Stalled pauses: sandboxes that are being paused and whose machines do not answer, because their host or their engine
 * stands still. The machine lives, so nothing is lost: it is asked again, more and more patiently, until it answers or
 * dies. A method named `…InQueue` is for callers in the sandbox's serial queue.
 */
import { DomainError, messageOf } from "../../errors.ts";
import type { SnapshotRecord } from "../../ledger/snapshots.ts";
import type { Logger } from "../../log.ts";
import type { Vm } from "../../machine/driver.ts";
import type { ContinuationReason, SandboxRecord } from "../../types.ts";
import { BackOff } from "../../until-done.ts";
import type { SandboxContext } from "./context.ts";
import type { DepartureReason } from "./leave.ts";

/** How long an engine may take to answer, at first and at most. */
const firstPatienceMs = 10_000;
const longestPatienceMs = 60_000;
const retryMs = 1_000;

/** A pause under way. */
export interface PauseUnderWay {
  /** In state `pausing`. */
  readonly record: SandboxRecord;
  readonly vm: Vm;
  /** The boot id of the guest. */
  readonly bootId: string;
  readonly sandboxId: string;
  /** The continuation that the machine is saved into. */
  readonly snapshot: SnapshotRecord;
  readonly memory: boolean;
  readonly reason: ContinuationReason;
  readonly log: Logger;
}

/** @throws DomainError `not_ready` for a sandbox whose pause is under way, and stalls */
export function refuseWhilePausing({ id, state }: SandboxRecord): void {
  if (state !== "pausing") return;
  throw new DomainError("not_ready", `Sandbox ${id} is being paused, and its machine does not answer at the moment`);
}

export class StalledPauses {
  readonly #context: SandboxContext;
  readonly #goOnInQueue: (pause: PauseUnderWay) => Promise<void>;
  /** By sandbox. */
  readonly #pauses = new Map<string, PauseUnderWay>();
  readonly #closing = new AbortController();

  /** @param goOnInQueue goes on with a pause whose machine answers again; it may be kept here once more */
  constructor(context: SandboxContext, goOnInQueue: (pause: PauseUnderWay) => Promise<void>) {
    this.#context = context;
    this.#goOnInQueue = goOnInQueue;
  }

  /** Keeps a pause whose machine lives and does not answer. @returns the answer to the client that asked for the pause */
  keepInQueue(pause: PauseUnderWay, cause: unknown): DomainError {
    const { sandboxId, log } = pause;
    this.#pauses.set(sandboxId, pause);
    const message = `The sandbox's machine does not answer, and the sandbox is paused once it does: ${messageOf(cause)}`;
    log.error({ err: cause }, "a pause stalls, because the machine does not answer");
    this.#context.deps.logs.note(sandboxId, message, { level: "warn", event: "pause_stalled" });
    void this.#askUntilAnswered(pause);
    void pause.vm.exited.then((exit) => {
      if (exit.reason === "died") this.#inQueue(pause, async () => this.#lose(pause, exit.detail));
    });
    return new DomainError("deadline_exceeded", message, {}, { cause });
  }

  /** Ends a sandbox in state `pausing`, whose machine may not answer. Clients find it no more when this returns. */
  endInQueue(record: SandboxRecord, reason: DepartureReason): boolean {
    const pause = this.#pauses.get(record.id);
    if (!pause) return false;
    this.#leave(pause, reason);
    return true;
  }

  /** Lets go of every machine without ending it: the daemon stops. */
  async release(): Promise<void> {
    this.#closing.abort();
    const machines = [...this.#pauses.values()];
    this.#pauses.clear();
    await Promise.all(machines.map(({ vm }) => vm.release()));
  }

  /** The machine is asked outside of the queue, so that a kill need not wait for it. */
  async #askUntilAnswered(pause: PauseUnderWay): Promise<void> {
    const { clock } = this.#context.deps;
    const patience = new BackOff(firstPatienceMs, longestPatienceMs);
    while (this.#pauses.get(pause.sandboxId) === pause) {
      try {
        await pause.vm.pause(patience.next());
        break;
      } catch (error) {
        if (this.#pauses.get(pause.sandboxId) === pause) {
          pause.log.warn({ err: error }, "the machine of a stalled pause does not answer yet");
        }
        await clock.sleep(retryMs, this.#closing.signal).catch(() => {});
      }
    }
    this.#inQueue(pause, async () => {
      this.#pauses.delete(pause.sandboxId);
      await this.#goOnInQueue(pause);
    });
  }

  /** Does something about a pause in its queue, unless the pause is over by then. */
  #inQueue(pause: PauseUnderWay, act: () => Promise<void>): void {
    const { queue } = this.#context;
    const { sandboxId, log } = pause;
    if (this.#pauses.get(sandboxId) !== pause) return;
    queue
      .runAlways(sandboxId, async () => {
        if (this.#pauses.get(sandboxId) === pause) await act();
      })
      .catch((error) => log.error({ err: error }, "a stalled pause did not end"));
  }

  #lose(pause: PauseUnderWay, detail: string): void {
    this.#leave(pause, "machine_died", `The sandbox's machine died before it could be saved: ${detail}`);
  }

  #leave({ record, vm, snapshot: continuation }: PauseUnderWay, reason: DepartureReason, loss?: string): void {
    this.#context.departures.leave({ record, reason, loss, continuation, endMachine: () => vm.terminate() });
    this.#pauses.delete(record.id);
  }
}
