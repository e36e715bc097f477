/**
 * How sandboxes end: a client kills or stops them, their time is up, or their machine is lost. Whatever the reason, nobody
 * sees an ended sandbox any more at once; its machine ends in the background, and its capacity is released after that.
 */
import { DomainError } from "../../errors.ts";
import { getSandbox, moveSandbox } from "../../ledger/sandboxes.ts";
import type { EndReason, SandboxLogEntry, SandboxRecord } from "../../types.ts";
import type { SandboxLogs } from "../records/sandbox-logs.ts";
import { SessionStop } from "../sessions/stop.ts";
import { endMessages } from "./end-messages.ts";
import type { PauseDependencies, SandboxPause } from "./pause.ts";
import type { SandboxRegistry } from "./registry.ts";
import type { SerialQueue } from "./serial-queue.ts";

export type EndDependencies = PauseDependencies & { readonly logs: SandboxLogs };

export class SandboxEnds {
  readonly #deps: EndDependencies;
  readonly #registry: SandboxRegistry;
  readonly #queue: SerialQueue;
  readonly #pause: SandboxPause;
  readonly #stop: SessionStop;

  constructor(deps: EndDependencies, registry: SandboxRegistry, queue: SerialQueue, pause: SandboxPause) {
    this.#deps = deps;
    this.#registry = registry;
    this.#queue = queue;
    this.#pause = pause;
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
  lose(id: string, sessionId: string, reason: EndReason, detail: string): void {
    const { log, logs } = this.#deps;
    const ending = this.#queue.run(id, async () => {
      const session = this.#registry.session(id);
      const record = this.#registry.view(id)?.record;
      if (!record || session?.sessionId !== sessionId) return;
      session.log.error({ detail }, "sandbox lost");
      logs.record(id, detail, { level: "error", event: "lost" });
      this.endInQueue(record, reason);
    });
    ending.catch((error) => log.error({ err: error, sandboxID: id }, "a lost sandbox could not be ended"));
  }

  /** Ends a running sandbox: nobody sees it any more when this returns. */
  endInQueue(record: SandboxRecord, reason: EndReason): void {
    const { ledger, clock, samples, terminator, logs } = this.#deps;
    const startedMs = clock.monotonicMs();
    const { session } = this.#registry.getRunning(record.id);
    const ending = moveSandbox(ledger, record.id, "running", "terminating", { endReason: reason });
    this.#registry.remove(record.id);
    session.end(new DomainError("not_found", endMessages[reason]));
    logs.record(record.id, endMessages[reason], { event: "ended", reason, level: levelOf(reason) });
    session.log.info({ reason }, "sandbox ending");
    terminator.terminate(
      ending,
      () => session.vm.terminate(),
      () => samples.record("kill_delete", reason, clock.monotonicMs() - startedMs, record.id),
    );
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

/** Clients want these; whatever else ends a sandbox is a fault. */
function levelOf(reason: EndReason): SandboxLogEntry["level"] {
  return reason === "killed" || reason === "stopped" || reason === "expired" ? "info" : "error";
}
