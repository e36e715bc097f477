/**
 * How sandboxes end: a client kills or stops them, their time is up, or their machine is lost. Whatever the reason, nobody
 * sees an ended sandbox any more at once; its machine ends in the background, and its capacity is released after that.
 */
import { DomainError } from "../../errors.ts";
import { getSandbox } from "../../ledger/sandboxes.ts";
import type { SandboxRecord } from "../../types.ts";
import type { SandboxLogs } from "../records/sandbox-logs.ts";
import { SessionStop } from "../sessions/stop.ts";
import type { DepartureReason, Departures } from "./leave.ts";
import type { PauseDependencies, SandboxPause } from "./pause.ts";
import type { SandboxRegistry } from "./registry.ts";
import type { SerialQueue } from "./serial-queue.ts";

export type EndDependencies = PauseDependencies & { readonly logs: SandboxLogs };

export class SandboxEnds {
  readonly #deps: EndDependencies;
  readonly #registry: SandboxRegistry;
  readonly #queue: SerialQueue;
  readonly #pause: SandboxPause;
  readonly #departures: Departures;
  readonly #stop: SessionStop;

  constructor(
    deps: EndDependencies,
    registry: SandboxRegistry,
    queue: SerialQueue,
    { pause, departures }: { readonly pause: SandboxPause; readonly departures: Departures },
  ) {
    this.#deps = deps;
    this.#registry = registry;
    this.#queue = queue;
    this.#pause = pause;
    this.#departures = departures;
    this.#stop = new SessionStop(deps.clock);
  }

  /** See `Runtime.killSandbox`. */
  async kill(id: string): Promise<void> {
    this.#registry.get(id);
    this.#stop.cutShort(id);
    this.#queue.overtake(id, endedMeanwhile());
    await this.#queue.run(id, async () => {
      const { record, state } = this.#registry.get(id);
      if (state === "paused") this.#pause.killInQueue(record, "killed");
      else this.endInQueue(record, "killed");
    });
  }

  /** See `Runtime.stopSandbox`. */
  async stop(id: string, deadlineMs: number): Promise<void> {
    this.#queue.overtake(id, endedMeanwhile());
    await this.#queue.run(id, async () => {
      const view = this.#registry.view(id);
      // Stopped before, or ended by whatever: what the client wants is so.
      if (!view && getSandbox(this.#deps.ledger, id)) return;
      const { record, state } = this.#registry.get(id);
      if (state === "paused") return this.#pause.killInQueue(record, "stopped");
      await this.#stop.stop(this.#registry.getRunning(id).session, deadlineMs);
      this.endInQueue(this.#registry.get(id).record, "stopped");
    });
  }

  /** Ends a sandbox whose session is lost, unless that was ended meanwhile or succeeded by another. */
  lose(id: string, sessionId: string, reason: "machine_died" | "lost", detail: string): void {
    const ending = this.#queue.run(id, async () => {
      const session = this.#registry.session(id);
      const record = this.#registry.view(id)?.record;
      if (!record || session?.sessionId !== sessionId) return;
      this.endInQueue(record, reason, detail);
    });
    ending.catch((error) => this.#deps.log.error({ err: error, sandboxID: id }, "a lost sandbox could not be ended"));
  }

  /** Ends a running sandbox: nobody sees it any more when this returns. */
  endInQueue(record: SandboxRecord, reason: DepartureReason, loss?: string): void {
    const { session } = this.#registry.getRunning(record.id);
    const endMachine = () => session.vm.terminate();
    this.#departures.leave({ record, reason, session, endMachine, loss });
  }

  /** Waits for no guest any more that was asked to stop. */
  close(): void {
    this.#stop.close();
  }
}

/** Told to whoever waits for capacity to do something with a sandbox that is wanted gone. */
function endedMeanwhile(): DomainError {
  return new DomainError("not_found", "The sandbox was ended while there was no capacity for what was asked of it");
}
