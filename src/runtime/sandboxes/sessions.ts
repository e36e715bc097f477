/**
 * The sessions of the sandboxes: a machine that is ready becomes a live session, and its sandbox is shown as running.
 * Emits `lost` when a session lost its machine; the listener decides what becomes of the sandbox.
 */
import { EventEmitter } from "node:events";
import { DomainError } from "../../errors.ts";
import { getAccessToken } from "../../ledger/access-tokens.ts";
import type { SandboxRecord, SessionOrigin } from "../../types.ts";
import type { SandboxView } from "../contract.ts";
import type { RuntimeDependencies } from "../dependencies.ts";
import type { HeldMachine } from "../machines/restore.ts";
import type { TeamMetrics } from "../records/team-metrics.ts";
import { LiveSession } from "../sessions/live-session.ts";
import type { SandboxRegistry } from "./registry.ts";

/** A machine that is ready for its first command. */
export type ReadyMachine = Pick<HeldMachine, "vm" | "agent" | "restoreStartedMs"> & { readonly origin: SessionOrigin };

/** What became of a session that nobody ended. */
export interface SessionLoss {
  readonly sandboxId: string;
  readonly sessionId: string;
  readonly reason: "machine_died" | "lost";
  readonly detail: string;
}

/** The first line of what a session adds to its sandbox's log. */
const originMessages: Record<SessionOrigin, string> = {
  create: "The sandbox was created",
  pool: "The sandbox was created",
  fork: "The sandbox was created as a fork",
  followup: "The sandbox was created as a follow-up",
  resume: "The sandbox was resumed",
  adopted: "The daemon took up the running sandbox",
};

type SessionsDependencies = Pick<RuntimeDependencies, "ledger" | "clock" | "samples" | "log" | "logs">;

export class Sessions extends EventEmitter<{ lost: [SessionLoss] }> {
  readonly #deps: SessionsDependencies;
  readonly #registry: SandboxRegistry;
  readonly #team: TeamMetrics;

  constructor(deps: SessionsDependencies, registry: SandboxRegistry, team: TeamMetrics) {
    super();
    this.#deps = deps;
    this.#registry = registry;
    this.#team = team;
  }

  /** Shows a sandbox as running in this machine, which is the session's from now on. */
  attach(record: SandboxRecord, { vm, agent, origin, restoreStartedMs }: ReadyMachine): SandboxView {
    const { ledger, clock, samples, log, logs } = this.#deps;
    const { id: sandboxId } = record;
    const { sessionId } = vm.record;
    const accessToken = getAccessToken(ledger, sandboxId);
    const session = new LiveSession({
      record,
      accessToken,
      vm,
      agent,
      origin,
      restoreStartedMs,
      clock,
      samples,
      log,
      commands: logs.ofSession(sandboxId),
      onLost: (reason, detail) => this.emit("lost", { sandboxId, sessionId, reason, detail }),
    });
    if (origin !== "adopted") this.#team.countStart();
    logs.note(sandboxId, originMessages[origin], { event: "running", origin, templateID: record.templateId });
    session.log.info({ template: record.templateId }, "sandbox running");
    return this.#registry.change(record, session) ?? this.#registry.add(record, accessToken, session);
  }

  /** Shows a sandbox that an earlier daemon paused. */
  showPaused(record: SandboxRecord): void {
    this.#registry.add(record, getAccessToken(this.#deps.ledger, record.id), undefined);
  }

  /** Lets go of every session without ending its machine: the daemon stops. */
  async release(): Promise<void> {
    const all = [...this.#registry.sessions()];
    for (const session of all) session.end(new DomainError("not_ready", "The daemon stops; connect again later"));
    await Promise.all(all.map((session) => session.vm.release()));
  }
}
