/**
 * A session is the live connection to the machine of one running sandbox. Everything that serves a client's request
 * inside the sandbox (commands, files, ports) goes through the session, and ends with it. This room keeps that
 * connection alive, checks it and stops its guest; it may call processes and machines.
 */
import type { GuestAgent } from "../../guest/agent.ts";
import type { Logger } from "../../log.ts";
import type { SandboxIngress, SpanName } from "../../types.ts";
import type { ProcessTable } from "../processes/process-table.ts";

/** A session as data-plane requests see it. */
export interface Session {
  readonly sandboxId: string;
  readonly templateId: string;
  /** New for every machine, so that the end of an old machine cannot touch its successor. */
  readonly sessionId: string;
  /** The token with which clients prove that they may use the sandbox's data plane. */
  readonly accessToken: string;
  readonly ingress: SandboxIngress;
  /**
   * The agent over the live link.
   * @throws DomainError `not_ready` while the link is being re-established, `disk_pressure` while the machine waits for
   *   room on the host's disk
   */
  readonly agent: GuestAgent;
  readonly processes: ProcessTable;
  /** Aborts, with a DomainError as reason, when the sandbox is killed, paused or lost. Open streams end then. */
  readonly ended: AbortSignal;
  /** The environment of all processes of the sandbox. */
  readonly envs: Readonly<Record<string, string>>;
  readonly log: Logger;
  recordSample(span: SpanName, durationMs: number): void;
  /**
   * Gives the monotonic time at which the restore began, to the first caller only. The first non-interactive command
   * after a restore records `start.resume_to_first_stdout_ms` with it.
   */
  takeRestoreStart(): number | undefined;
}
