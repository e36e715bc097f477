/**
 * The ends of sandboxes: a client kills or stops one, or its machine is lost. Deadlines end sandboxes through this too.
 * How a sandbox leaves, whatever the end, is in `leave.ts`.
 */
import { DomainError } from "../../errors.ts";
import { getSandbox } from "../../ledger/sandboxes.ts";
import { getSnapshot } from "../../ledger/snapshots.ts";
import type { SandboxRecord } from "../../types.ts";
import { SessionStop } from "../sessions/stop.ts";
import type { SandboxContext } from "./context.ts";
import type { DepartureReason } from "./leave.ts";
import type { PausedInMemory } from "./paused-in-memory.ts";
import type { SessionLoss } from "./sessions.ts";

export class SandboxEnds {
  readonly #context: SandboxContext;
  readonly #inMemory: PausedInMemory;
  readonly #stop: SessionStop;

  constructor(context: SandboxContext, inMemory: PausedInMemory) {
    this.#context = context;
    this.#inMemory = inMemory;
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
      await this.#stop.stop(registry.getRunning(id).session, deadlineMs);
      this.endInQueue(registry.get(id).record, "stopped");
    });
  }

  /** Ends a sandbox whose session is lost, unless the session ended meanwhile or the sandbox has another one. */
  lose({ sandboxId, sessionId, reason, detail }: SessionLoss): void {
    const { deps, registry, queue } = this.#context;
    const ending = queue.runAlways(sandboxId, async () => {
      const record = registry.view(sandboxId)?.record;
      if (!record || registry.session(sandboxId)?.sessionId !== sessionId) return;
      this.endInQueue(record, reason, detail);
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
    const { session } = registry.getRunning(record.id);
    departures.leave({ record, reason, session, loss, endMachine: () => session.vm.terminate() });
  }

  /** Waits no longer for guests that were asked to stop. */
  close(): void {
    this.#stop.close();
  }

  #endPausedInQueue(record: SandboxRecord, reason: DepartureReason): void {
    if (record.state === "paused_in_memory") {
      this.#inMemory.endInQueue(record, reason);
      return;
    }
    const { deps, departures } = this.#context;
    departures.leave({ record, reason, continuation: getSnapshot(deps.ledger, record.snapshotId) });
  }
}

/** The answer to requests that wait for capacity for a sandbox that is to end. */
function endedMeanwhile(): DomainError {
  return new DomainError("not_found", "The sandbox was ended while there was no capacity for what was asked of it");
}
