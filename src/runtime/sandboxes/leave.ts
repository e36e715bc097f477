/**
 * The leaving of sandboxes: the one way in which a sandbox stops existing for clients, be it killed, stopped, expired
 * or lost, from whatever state. Clients find it no more when `leave` returns; its machine and files go in the
 * background, and its capacity is released after that.
 */
import { DomainError } from "../../errors.ts";
import { moveSandbox } from "../../ledger/sandboxes.ts";
import { deleteContinuation, type SnapshotRecord } from "../../ledger/snapshots.ts";
import type { EndReason, SandboxLogEntry, SandboxRecord } from "../../types.ts";
import type { RuntimeDependencies } from "../dependencies.ts";
import { removeStruckOff } from "../machines/capture.ts";
import type { LiveSession } from "../sessions/live-session.ts";
import type { SandboxRegistry } from "./registry.ts";

type DepartureDependencies = Pick<
  RuntimeDependencies,
  "ledger" | "clock" | "log" | "samples" | "logs" | "unfinishedWork"
>;

/** A reason for which a sandbox leaves. A sandbox that was never created did not leave. */
export type DepartureReason = Exclude<EndReason, "create_failed">;

export interface Departure {
  /** The sandbox in the state that it leaves. */
  readonly record: SandboxRecord;
  readonly reason: DepartureReason;
  /** Says in the sandbox's log, before its end, what became of a sandbox that nobody ended. */
  readonly loss?: string | undefined;
  /** The session that ends with the sandbox, and with it every open stream. */
  readonly session?: LiveSession | undefined;
  /** The continuation that goes with the sandbox. */
  readonly continuation?: SnapshotRecord | undefined;
  /** Ends the machine and removes its files; called again, with pauses, until it succeeds. */
  readonly endMachine?: () => Promise<void>;
}

/** What clients are told of a sandbox that left: why their streams broke, and the last line of its log. */
const endMessages: Record<DepartureReason, string> = {
  killed: "The sandbox was killed",
  stopped: "The sandbox was stopped",
  expired: "The sandbox reached its end of life",
  machine_died: "The sandbox's machine died",
  lost: "The sandbox was lost",
};

/** Clients want these; every other reason is a fault. */
const wanted: ReadonlySet<DepartureReason> = new Set(["killed", "stopped", "expired"]);

export class Departures {
  readonly #deps: DepartureDependencies;
  readonly #registry: SandboxRegistry;

  constructor(deps: DepartureDependencies, registry: SandboxRegistry) {
    this.#deps = deps;
    this.#registry = registry;
  }

  /** @throws DomainError `disk_pressure`, or whatever else the ledger throws; the sandbox stays as it is. */
  leave({ record, reason, loss, session, continuation, endMachine }: Departure): void {
    const { ledger, clock, log, samples, logs, unfinishedWork } = this.#deps;
    const { id, machine } = record;
    const startedMs = clock.monotonicMs();
    const ending = ledger.write(() => {
      const moved = moveSandbox(ledger, id, record.state, "terminating", { endReason: reason });
      if (continuation) deleteContinuation(ledger, continuation.id);
      return moved;
    });
    this.#registry.remove(id);
    session?.end(new DomainError("not_found", endMessages[reason]));
    const names = { sandboxID: id, sessionID: machine?.sessionId };
    if (loss !== undefined) {
      log.error({ ...names, detail: loss }, "sandbox lost");
      logs.note(id, loss, { level: "error", event: "lost" });
    }
    const level: SandboxLogEntry["level"] = wanted.has(reason) ? "info" : "error";
    logs.note(id, endMessages[reason], { level, event: "ended", reason });
    log.info({ ...names, reason }, "sandbox ending");
    unfinishedWork.terminate(
      ending,
      async () => {
        await endMachine?.();
        if (continuation) await removeStruckOff(ledger, continuation);
      },
      () => samples.record("kill_delete", reason, clock.monotonicMs() - startedMs, id),
    );
  }
}
