/**
 * A live session is the session of a running sandbox: a machine, the guest link to it (made anew when it breaks), and
 * the processes that were started through it. A session never decides that its sandbox ends; it calls `onLost`.
 */
import type { Clock } from "../../clock.ts";
import { DomainError, messageOf } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { openGuestAgent } from "../../guest-machine/agent.ts";
import { sandboxEnvironment } from "../../guest-machine/setup.ts";
import type { Logger } from "../../log.ts";
import type { Vm } from "../../machine/driver.ts";
import type { EndReason, SandboxIngress, SandboxRecord, SessionOrigin, SpanName } from "../../types.ts";
import type { LifecycleSamples } from "../lifecycle-samples.ts";
import type { SessionLog } from "../processes/process-log.ts";
import { ProcessTable } from "../processes/process-table.ts";
import type { Session } from "./session.ts";

/** A link that lived shorter than this counts as short. */
const shortLinkMs = 10_000;
const maxShortLinks = 8;
/** The pause before a reconnect, for each short link in a row. */
const reconnectPauseMs = 250;
/** How long the news of a dead machine may take to arrive on a busy host, after a link that cannot be made again. */
const exitNewsMs = 1000;

/** The link is up, being made anew, or gone with the session. */
type Link =
  | { readonly at: "up"; readonly agent: GuestAgent }
  | { readonly at: "reconnecting" }
  | { readonly at: "ended" };

export interface LiveSessionOptions {
  readonly record: SandboxRecord;
  readonly accessToken: string;
  readonly vm: Vm;
  readonly agent: GuestAgent;
  readonly origin: SessionOrigin;
  /** Monotonic time at which the restore began; undefined for a machine that was restored long before. */
  readonly restoreStartedMs: number | undefined;
  readonly clock: Clock;
  readonly samples: LifecycleSamples;
  readonly log: Logger;
  /** The log of the sandbox's commands. */
  readonly commands: SessionLog;
  /** Called once when the machine died or its agent cannot be reached any more. */
  readonly onLost: (reason: Extract<EndReason, "machine_died" | "lost">, detail: string) => void;
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
  readonly #clock: Clock;
  /** The guest kernel's boot id, which stays the same however often the guest is restored. */
  readonly bootId: string;
  readonly #samples: LifecycleSamples;
  readonly #origin: SessionOrigin;
  readonly #onLost: LiveSessionOptions["onLost"];
  readonly #ended = new AbortController();
  #link: Link;
  #restoreStartedMs: number | undefined;
  /** Links in a row that broke soon after they were made. */
  #shortLinks = 0;

  constructor(options: LiveSessionOptions) {
    const { record, vm } = options;
    this.sandboxId = record.id;
    this.templateId = record.templateId;
    this.sessionId = vm.record.sessionId;
    this.accessToken = options.accessToken;
    this.ingress = record.ingress;
    this.envs = sandboxEnvironment({ sandboxId: record.id, templateId: record.templateId, envs: record.envs });
    this.log = options.log.child({ sandboxID: this.sandboxId, sessionID: this.sessionId });
    this.vm = vm;
    this.#clock = options.clock;
    this.bootId = options.agent.bootId;
    this.#samples = options.samples;
    this.#origin = options.origin;
    this.#onLost = options.onLost;
    this.#restoreStartedMs = options.restoreStartedMs;
    this.#link = { at: "up", agent: options.agent };
    this.processes = new ProcessTable(this, options.clock, options.commands);
    this.#watchLink(options.agent);
    void vm.exited.then((exit) => {
      if (exit.reason === "died") this.#lose("machine_died", exit.detail);
    });
  }

  get agent(): GuestAgent {
    if (this.#link.at === "up") return this.#link.agent;
    if (this.#link.at === "ended") throw this.#ended.signal.reason;
    throw new DomainError("not_ready", "The link to the sandbox is being re-established. Try again in a moment.");
  }

  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  recordSample(span: SpanName, durationMs: number): void {
    this.#samples.record(span, this.#origin, durationMs, this.sandboxId);
  }

  takeRestoreStart(): number | undefined {
    const startedMs = this.#restoreStartedMs;
    this.#restoreStartedMs = undefined;
    return startedMs;
  }

  /** Ends every open stream of the session with `reason` and closes the link. The caller ends the machine. */
  end(reason: DomainError): void {
    if (this.#link.at === "ended") return;
    const link = this.#link;
    this.#link = { at: "ended" };
    this.#ended.abort(reason);
    if (link.at === "up") link.agent.close();
  }

  #watchLink(agent: GuestAgent): void {
    const openedMs = this.#clock.monotonicMs();
    void agent.closed.then((reason) => {
      const wasShort = this.#clock.monotonicMs() - openedMs < shortLinkMs;
      this.#shortLinks = wasShort ? this.#shortLinks + 1 : 0;
      return this.#reconnect(agent, reason);
    });
  }

  async #reconnect(broken: GuestAgent, reason: Error): Promise<void> {
    if (this.#link.at !== "up" || this.#link.agent !== broken) return;
    this.#link = { at: "reconnecting" };
    this.log.warn({ err: reason }, "guest link broke; reconnecting");
    try {
      if (this.#shortLinks > maxShortLinks)
        throw new DomainError("machine_failed", "the guest link breaks again and again");
      // A guest that keeps breaking its link must not keep the daemon busy with it.
      if (this.#shortLinks > 0) await this.#clock.sleep(this.#shortLinks * reconnectPauseMs, this.#ended.signal);
      const agent = await openGuestAgent(this.vm, {
        clock: this.#clock,
        log: this.log,
        signal: this.#ended.signal,
      });
      if (this.#ended.signal.aborted) return agent.close();
      this.#link = { at: "up", agent };
      this.#watchLink(agent);
      this.log.info("guest link re-established");
    } catch (error) {
      // A machine that died broke its link first. Its death is what the owner is told then.
      const heard = this.#clock.sleep(exitNewsMs, this.#ended.signal).catch(() => {});
      if (await Promise.race([this.vm.exited, heard])) return;
      this.#lose("lost", `the guest agent cannot be reached: ${messageOf(error)}`);
    }
  }

  #lose(...loss: Parameters<LiveSessionOptions["onLost"]>): void {
    if (this.#link.at !== "ended") this.#onLost(...loss);
  }
}
