/**
 * The sessions of the sandboxes: a machine that is ready becomes a live session, and its sandbox is shown as running.
 * Emits `lost` and `unruly` when something is wrong with a session; a listener decides what becomes of the sandbox.
 */
import { EventEmitter } from "node:events";
import { DomainError } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { getAccessToken } from "../../ledger/access-tokens.ts";
import type { SandboxRecord, SessionOrigin } from "../../types.ts";
import type { SandboxView } from "../contract.ts";
import type { RuntimeDependencies } from "../dependencies.ts";
import type { HeldMachine } from "../machines/restore.ts";
import type { TeamMetrics } from "../records/team-metrics.ts";
import { LiveSession } from "../sessions/live-session.ts";
import type { SandboxRegistry } from "./registry.ts";

/** A machine that a sandbox runs in from now on. */
export interface ReadyMachine extends Pick<HeldMachine, "vm" | "restoreStartedMs"> {
  /** Undefined: the agent does not answer yet, and requests are told so until it does. */
  readonly agent: GuestAgent | undefined;
  /** The boot id that the guest must have; without it, and without an agent, the first that is seen counts. */
  readonly bootId?: string | undefined;
  readonly origin: SessionOrigin;
}

/** Something that happened to a session, and that nobody ordered. */
export interface SessionTrouble {
  readonly sandboxId: string;
  readonly sessionId: string;
  readonly detail: string;
}

interface SessionEvents {
  /** The machine died, or its guest booted anew. */
  readonly lost: [SessionTrouble];
  /** The machine lives, and its guest breaks the link again and again. */
  readonly unruly: [SessionTrouble];
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

export class Sessions extends EventEmitter<SessionEvents> {
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
  attach(record: SandboxRecord, { vm, agent, bootId, origin, restoreStartedMs }: ReadyMachine): SandboxView {
    const { ledger, clock, samples, log, logs } = this.#deps;
    const { id: sandboxId } = record;
    const { sessionId } = vm.record;
    const accessToken = getAccessToken(ledger, sandboxId);
    const session = new LiveSession({
      record,
      accessToken,
      vm,
      agent,
      bootId,
      origin,
      restoreStartedMs,
      clock,
      samples,
      log,
      commands: logs.ofSession(sandboxId),
      onLost: (detail) => void this.emit("lost", { sandboxId, sessionId, detail }),
      onUnruly: (detail) => void this.emit("unruly", { sandboxId, sessionId, detail }),
    });
    if (origin !== "adopted") this.#team.countStart();
    logs.note(sandboxId, originMessages[origin], { event: "running", origin, templateID: record.templateId });
    session.log.info({ template: record.templateId }, "sandbox running");
    return this.#registry.change(record, session) ?? this.#registry.add(record, accessToken, session);
  }

  /**
   * Shows a sandbox of an earlier daemon without a session: it is paused, or its machine does not answer yet.
   */
  showWithoutSession(record: SandboxRecord): void {
    this.#registry.add(record, getAccessToken(this.#deps.ledger, record.id), undefined);
  }

  /** Lets go of every session without ending its machine: the daemon stops. */
  async release(): Promise<void> {
    const all = [...this.#registry.sessions()];
    for (const session of all) session.end(new DomainError("not_ready", "The daemon stops; connect again later"));
    await Promise.all(all.map((session) => session.vm.release()));
  }
}
