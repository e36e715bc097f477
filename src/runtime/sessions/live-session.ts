/**
 * A live session is the session of a running sandbox: a machine, the guest link to it (made anew when it breaks), and
 * the processes that were started through it. A session never decides what becomes of its sandbox; it calls `onLost`
 * when the machine is dead, and `onUnruly` when the machine lives and its guest is of no use.
 */
import type { Clock } from "../../clock.ts";
import { DomainError } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { sandboxEnvironment } from "../../guest-machine/setup.ts";
import type { Logger } from "../../log.ts";
import type { Vm } from "../../machine/driver.ts";
import type { SandboxIngress, SandboxRecord, SessionOrigin, SpanName } from "../../types.ts";
import type { LifecycleSamples } from "../lifecycle-samples.ts";
import type { SessionLog } from "../processes/process-log.ts";
import { ProcessTable } from "../processes/process-table.ts";
import type { Session } from "./session.ts";
import { SessionLink } from "./session-link.ts";

export interface LiveSessionOptions {
  readonly record: SandboxRecord;
  readonly accessToken: string;
  readonly vm: Vm;
  /** Undefined: the agent does not answer yet. */
  readonly agent: GuestAgent | undefined;
  /** The boot id that the guest must have; undefined when nobody knows. */
  readonly bootId: string | undefined;
  readonly origin: SessionOrigin;
  /** Monotonic time at which the restore began; undefined for a machine that was restored long before. */
  readonly restoreStartedMs: number | undefined;
  readonly clock: Clock;
  readonly samples: LifecycleSamples;
  readonly log: Logger;
  /** The log of the sandbox's commands. */
  readonly commands: SessionLog;
  /** Called once when the machine died, or its guest booted anew. */
  readonly onLost: (detail: string) => void;
  /** Called when the guest breaks its link again and again. */
  readonly onUnruly: (detail: string) => void;
}

export class LiveSession implements Session {
  readonly sandboxId: string;
  readonly templateId: string;
  readonly sessionId: string;
  readonly accessToken: string;
  readonly ingress: SandboxIngress;
  readonly processes: ProcessTable;
  readonly envs: Readonly<Record<string, string>>;
  readonly log: Logger;
  readonly vm: Vm;
  /** The machine is stopped for a save, and does not answer for now. */
  isStopped = false;
  /** The machine is stopped until the host's disk has room: see `sandboxes/disk-waits.ts`. */
  isHeld = false;
  readonly #options: LiveSessionOptions;
  readonly #link: SessionLink;
  #restoreStartedMs: number | undefined;

  constructor(options: LiveSessionOptions) {
    const { record, vm, agent, bootId, clock } = options;
    this.#options = options;
    this.sandboxId = record.id;
    this.templateId = record.templateId;
    this.sessionId = vm.record.sessionId;
    this.accessToken = options.accessToken;
    this.ingress = record.ingress;
    this.envs = sandboxEnvironment({ sandboxId: record.id, templateId: record.templateId, envs: record.envs });
    this.log = options.log.child({ sandboxID: this.sandboxId, sessionID: this.sessionId });
    this.vm = vm;
    this.#restoreStartedMs = options.restoreStartedMs;
    this.#link = new SessionLink({
      ...{ vm, agent, bootId, clock, log: this.log },
      onBootedAnew: (detail) => this.#lose(detail),
      onUnruly: options.onUnruly,
    });
    this.processes = new ProcessTable(this, clock, options.commands);
    void vm.exited.then((exit) => {
      if (exit.reason === "died") this.#lose(exit.detail);
    });
  }

  get agent(): GuestAgent {
    if (this.waitsForDisk && !this.ended.aborted) throw standsStill(this.sandboxId);
    return this.#link.agent;
  }

  /** The guest kernel's boot id, which stays the same however often the guest is restored. @throws as {@link agent} */
  get bootId(): string {
    return this.#link.bootId;
  }

  /** The machine stands still until the host's disk has room. */
  get waitsForDisk(): boolean {
    return this.isHeld || this.vm.blockedBy !== undefined;
  }

  /** The machine stands still, and its guest's silence says nothing. */
  get standsStill(): boolean {
    return this.isStopped || this.waitsForDisk;
  }

  get origin(): SessionOrigin {
    return this.#options.origin;
  }

  /** How many bytes came over the guest link; undefined while it is being made. */
  get receivedBytes(): number | undefined {
    return this.#link.receivedBytes;
  }

  /** Processor time that the machine has used, in milliseconds; undefined when its engine does not tell. */
  cpuTimeMs(): number | undefined {
    return this.vm.cpuTimeMs();
  }

  get ended(): AbortSignal {
    return this.#link.ended;
  }

  recordSample(span: SpanName, durationMs: number): void {
    this.#options.samples.record(span, this.#options.origin, durationMs, this.sandboxId);
  }

  takeRestoreStart(): number | undefined {
    const startedMs = this.#restoreStartedMs;
    this.#restoreStartedMs = undefined;
    return startedMs;
  }

  /** Ends every open stream of the session with `reason` and closes the link. The caller ends the machine. */
  end(reason: DomainError): void {
    this.#link.end(reason);
  }

  #lose(detail: string): void {
    if (!this.ended.aborted) this.#options.onLost(detail);
  }
}

/** The answer to what needs the guest of a sandbox that waits for room. */
function standsStill(sandboxId: string): DomainError {
  const message = `Sandbox ${sandboxId} stands still, because the host's disk is full. It goes on when there is room.`;
  return new DomainError("disk_pressure", message);
}
