/**
 * The ends of sandboxes: a client kills or stops one, or its machine is lost. Deadlines end sandboxes through this too.
 * How a sandbox leaves, whatever the end, is in `leave.ts`.
 */
import { DomainError } from "../../errors.ts";
import { getSandbox } from "../../ledger/sandboxes.ts";
import { findContinuationInMaking, getSnapshot } from "../../ledger/snapshots.ts";
import type { SandboxRecord } from "../../types.ts";
import { SessionStop } from "../sessions/stop.ts";
import type { SandboxContext } from "./context.ts";
import type { DepartureReason } from "./leave.ts";
import type { PausedInMemory } from "./paused-in-memory.ts";
import type { SessionTrouble } from "./sessions.ts";
import type { StalledPauses } from "./stalled-pauses.ts";

export class SandboxEnds {
  readonly #context: SandboxContext;
  readonly #inMemory: PausedInMemory;
  readonly #stalled: StalledPauses;
  readonly #stop: SessionStop;

  constructor(
    context: SandboxContext,
    { inMemory, stalled }: { readonly inMemory: PausedInMemory; readonly stalled: StalledPauses },
  ) {
    this.#context = context;
    this.#inMemory = inMemory;
    this.#stalled = stalled;
    this.#stop = new SessionStop(context.deps.clock);
    context.sessions.on("lost", (loss) => this.lose(loss));
  }

  /** Ends a sandbox for good; resolves when the client may be told. @throws DomainError `not_found` */
  async kill(id: string): Promise<void> {
    const { registry, queue } = this.#context;
    registry.get(id);
    this.#stop.cutShort(id);
    queue.overtake(id, endedMeanwhile());
    await queue.runAlways(id, async () => {
      const { record, state } = registry.get(id);
      if (state === "paused") this.#endPausedInQueue(record, "killed");
      else this.endInQueue(record, "killed");
    });
  }

  /**
   * Asks the guest to end its processes and to write everything to its disk, ends the processes by force after
   * `deadlineMs`, and then ends the sandbox. Resolves when the processes are gone. Stopping a sandbox that has ended
   * does nothing.
   * @throws DomainError `not_found` when there never was such a sandbox, or it is forgotten
   */
  async stop(id: string, deadlineMs: number): Promise<void> {
    const { deps, registry, queue } = this.#context;
    queue.overtake(id, endedMeanwhile());
    await queue.runAlways(id, async () => {
      const view = registry.view(id);
      // The sandbox has ended already, so that the client has what it wants.
      if (!view && getSandbox(deps.ledger, id)) return;
      const { record, state } = registry.get(id);
      if (state === "paused") return this.#endPausedInQueue(record, "stopped");
      const session = registry.session(id);
      if (session) await this.#stop.stop(session, deadlineMs);
      this.endInQueue(registry.get(id).record, "stopped");
    });
  }

  /** Ends a sandbox whose session is lost, unless the session ended meanwhile or the sandbox has another one. */
  lose({ sandboxId, sessionId, detail }: SessionTrouble): void {
    const { deps, registry, queue } = this.#context;
    const ending = queue.runAlways(sandboxId, async () => {
      const record = registry.view(sandboxId)?.record;
      if (!record || registry.session(sandboxId)?.sessionId !== sessionId) return;
      this.endInQueue(record, "machine_died", detail);
    });
    ending.catch((error) =>
      deps.log.error({ err: error, sandboxID: sandboxId }, "a sandbox that lost its machine could not be ended"),
    );
  }

  /**
   * Ends a running sandbox. Call it in the sandbox's serial queue; clients find the sandbox no more when it returns.
   */
  endInQueue(record: SandboxRecord, reason: DepartureReason, loss?: string): void {
    const { registry, departures } = this.#context;
    const session = registry.session(record.id);
    const endMachine = () => (session ? session.vm.terminate() : this.#discardMachine(record));
    departures.leave({ record, reason, session, loss, endMachine });
  }

  /** Waits no longer for guests that were asked to stop. */
  close(): void {
    this.#stop.close();
  }

  #endPausedInQueue(record: SandboxRecord, reason: DepartureReason): void {
    if (this.#inMemory.endInQueue(record, reason) || this.#stalled.endInQueue(record, reason)) return;
    const { deps, departures } = this.#context;
    const { ledger } = deps;
    const rests = record.state === "paused";
    const continuation = rests ? getSnapshot(ledger, record.snapshotId) : findContinuationInMaking(ledger, record.id);
    departures.leave({ record, reason, continuation, endMachine: () => this.#discardMachine(record) });
  }

  /** Ends the machine of a sandbox that this daemon has not taken over, because the machine does not answer. */
  async #discardMachine({ machine }: SandboxRecord): Promise<void> {
    if (machine) await this.#context.deps.driver.discard(machine);
  }
}

/** The answer to requests that wait for capacity for a sandbox that is to end. */
function endedMeanwhile(): DomainError {
  return new DomainError("not_found", "The sandbox was ended while there was no capacity for what was asked of it");
}
