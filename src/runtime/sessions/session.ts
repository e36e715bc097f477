/**
 * A session: one live VM restored from a snapshot, seen through its guest agent. Everything that serves a client's
 * request inside a sandbox (commands, files, ports) goes through it, and ends with it.
 */
import type { GuestAgent } from "../../guest/agent.ts";
import type { Logger } from "../../log.ts";
import type { SandboxIngress, SpanName } from "../../types.ts";
import type { ProcessTable } from "../processes/process-table.ts";

/** What a data-plane request sees of a session. */
export interface Session {
  readonly sandboxId: string;
  readonly templateId: string;
  /** New for every VM, so that the tear-down of an old one cannot touch its successor. */
  readonly sessionId: string;
  /** Clients prove with it that they may use the sandbox's data plane. */
  readonly accessToken: string;
  readonly ingress: SandboxIngress;
  /** The live link. Throws `not_ready` while it is being re-established. */
  readonly agent: GuestAgent;
  readonly processes: ProcessTable;
  /** Aborted, with a DomainError as reason, when the sandbox is killed, paused or lost: open streams end then. */
  readonly ended: AbortSignal;
  /** The global environment of the sandbox's processes. */
  readonly envs: Readonly<Record<string, string>>;
  readonly log: Logger;
  recordSample(span: SpanName, durationMs: number): void;
  /**
   * When the restore began, on the monotonic clock, and only for the first caller: the first non-interactive command
   * after a restore records `start.resume_to_first_stdout_ms`.
   */
  takeRestoreStart(): number | undefined;
}
