/**
 * The process table holds the processes of one session. A process outlives the client that started it, and its end is
 * kept for a while, so that a client that connects late still learns it. Processes that an earlier daemon started are
 * adopted from the guest agent's list. This room holds the processes of guests and their output; it may call no other
 * room.
 */
import { type Clock, comesWithin } from "../../clock.ts";
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { AttachedProcess, GuestAgent } from "../../guest/agent.ts";
import type { Logger } from "../../log.ts";
import type { ProcessInfo, ProcessSpec, SpanName } from "../../types.ts";
import type { SessionLog } from "./process-log.ts";
import type { ProcessSubscription } from "./process-subscription.ts";
import { type ProcessDescription, RunningProcess } from "./running-process.ts";

/** How long the end of a process is kept for a client that connects late. */
const keepEndMs = 30_000;
/** The most ends that are kept, the latest ones. */
const maxKeptEnds = 1_024;
const sigkill = 9;
/** How long a kill waits to see the process end, because a descendant may hold its output open for much longer. */
const awaitKilledMs = 500;

export type ProcessSelector = { readonly pid: number } | { readonly tag: string };

/** The part of a `Session` that the table needs. */
export interface ProcessTableSession {
  readonly agent: GuestAgent;
  readonly ended: AbortSignal;
  readonly log: Logger;
  recordSample(span: SpanName, durationMs: number): void;
  takeRestoreStart(): number | undefined;
}

export interface StartedProcess {
  readonly process: RunningProcess;
  /** Subscribed before the first byte of output. */
  readonly events: ProcessSubscription;
}

export class ProcessTable {
  readonly #session: ProcessTableSession;
  readonly #clock: Clock;
  readonly #log: SessionLog | undefined;
  /** Live processes, and ended ones for {@link keepEndMs}; a reused pid replaces the ended one. */
  readonly #byPid = new Map<number, RunningProcess>();
  /** The ended processes in `#byPid`, in the order of their ends. */
  readonly #ended = new Set<RunningProcess>();
  /** The starts under way, because the agent may list their processes before this table knows them. */
  readonly #starting = new Set<Promise<unknown>>();
  #adopting: Promise<void> | undefined;

  /** @param log default: none */
  constructor(session: ProcessTableSession, clock: Clock, log?: SessionLog) {
    this.#session = session;
    this.#clock = clock;
    this.#log = log;
    session.ended.addEventListener("abort", () => this.#endAll(), { once: true });
  }

  /**
   * Starts a process; resolves once it runs.
   * @param options.timeoutMs after which the process is killed, counted from this call, whether clients listen or not
   * @param options.keepOutput true: the output is kept from the first byte on
   * @throws the guest agent's error when the command cannot start
   */
  async start(spec: ProcessSpec, options: { timeoutMs?: number; keepOutput?: boolean } = {}): Promise<StartedProcess> {
    const requestedMs = this.#clock.monotonicMs();
    const restoredMs = spec.terminal ? undefined : this.#session.takeRestoreStart();
    const starting = this.#session.agent.exec(spec);
    this.#starting.add(starting);
    let attached: AttachedProcess;
    try {
      attached = await starting;
    } finally {
      this.#starting.delete(starting);
    }
    if (this.#session.ended.aborted) {
      attached.detach();
      throw this.#session.ended.reason;
    }
    const startedMs = this.#clock.monotonicMs();
    this.#session.recordSample("command_start", startedMs - requestedMs);
    const onFirstOutput = () => {
      const nowMs = this.#clock.monotonicMs();
      this.#session.recordSample("first_stdout_byte", nowMs - startedMs);
      if (restoredMs !== undefined) this.#session.recordSample("start.resume_to_first_stdout_ms", nowMs - restoredMs);
    };
    const process = this.#add(attached, describe(spec), { spec, onFirstOutput });
    if (options.keepOutput) process.keepOutput();
    const events = process.subscribe();
    if (options.timeoutMs !== undefined) this.#killAfter(process, options.timeoutMs - (startedMs - requestedMs));
    return { process, events };
  }

  /** Live processes, oldest first, adopted processes included. */
  async list(): Promise<RunningProcess[]> {
    await this.#adopt();
    return [...this.#byPid.values()].filter((process) => process.state.at === "running");
  }

  /** Finds a process that runs, else one that ended within the last 30 seconds. @throws DomainError `not_found` */
  async find(selector: ProcessSelector): Promise<RunningProcess> {
    const known = this.#lookUp(selector);
    if (known) return known;
    await this.#adopt();
    const adopted = this.#lookUp(selector);
    if (adopted) return adopted;
    throw notFound(selector);
  }

  /** Finds a process that runs. @throws DomainError `not_found` */
  async findLive(selector: ProcessSelector): Promise<RunningProcess> {
    const process = await this.find(selector);
    if (process.state.at !== "running") throw notFound(selector);
    return process;
  }

  /**
   * Sends a signal to one process. After SIGKILL a client may rely on the process being gone.
   * @throws DomainError `not_found`
   */
  async signal(selector: ProcessSelector, signal: number): Promise<void> {
    const process = await this.findLive(selector);
    try {
      await this.#session.agent.signal(process.pid, signal);
    } catch (error) {
      throw isDomainError(error, "not_found") ? notFound(selector) : error;
    }
    if (signal === sigkill) await comesWithin(this.#clock, process.settled, awaitKilledMs);
  }

  #lookUp(selector: ProcessSelector): RunningProcess | undefined {
    this.#forgetOldEnds();
    if ("pid" in selector) return this.#byPid.get(selector.pid);
    const tagged = [...this.#byPid.values()].filter((process) => process.description.tag === selector.tag);
    return tagged.find((process) => process.state.at === "running") ?? tagged.at(-1);
  }

  #forgetOldEnds(): void {
    const oldestMs = this.#clock.monotonicMs() - keepEndMs;
    for (const process of this.#ended) {
      const { state } = process;
      const isFresh = state.at === "ended" && state.atMs >= oldestMs;
      if (isFresh && this.#ended.size <= maxKeptEnds) return;
      this.#ended.delete(process);
      this.#forget(process);
    }
  }

  /** Forgets a process, unless its pid belongs to a newer one by now. */
  #forget(process: RunningProcess): void {
    if (this.#byPid.get(process.pid) === process) this.#byPid.delete(process.pid);
  }

  /** Attaches to every process the agent knows and this table does not. Callers at the same time share one round. */
  #adopt(): Promise<void> {
    this.#adopting ??= this.#adoptUnknown().finally(() => {
      this.#adopting = undefined;
    });
    return this.#adopting;
  }

  async #adoptUnknown(): Promise<void> {
    const listed = await this.#session.agent.listProcesses();
    // A process that is just being started is listed and not in this table yet. Attaching would take its stream away.
    await Promise.allSettled(this.#starting);
    for (const info of listed) {
      if (this.#byPid.has(info.pid)) continue;
      try {
        const attached = await this.#session.agent.attach({ pid: info.pid });
        if (this.#session.ended.aborted || this.#byPid.has(attached.pid)) attached.detach();
        else this.#add(attached, describeListed(info));
      } catch (error) {
        // The agent may have forgotten the process since it listed it. Other errors concern this one process only.
        if (!isDomainError(error, "not_found")) {
          this.#session.log.warn({ pid: info.pid, error: messageOf(error) }, "the process cannot be attached to");
        }
      }
    }
  }

  /** @param started undefined for an adopted process */
  #add(
    attached: AttachedProcess,
    description: ProcessDescription,
    started?: { readonly spec: ProcessSpec; readonly onFirstOutput: () => void },
  ): RunningProcess {
    this.#forgetOldEnds();
    const log = this.#log?.follow(attached.pid, started?.spec);
    let first = true;
    const process = new RunningProcess(attached, description, this.#clock, (chunk) => {
      if (first) started?.onFirstOutput();
      first = false;
      log?.output(chunk);
    });
    void process.settled.then(() => {
      log?.settled(process.state);
      // A lost process may run on. The table forgets it, so that it is adopted again once the link is back.
      if (process.state.at === "lost") this.#forget(process);
      else this.#ended.add(process);
    });
    // Inserted again, so that the map stays in the order of starts.
    this.#byPid.delete(process.pid);
    this.#byPid.set(process.pid, process);
    return process;
  }

  /** Kills a process after `timeoutMs`. The timer ends with the process. */
  #killAfter(process: RunningProcess, timeoutMs: number): void {
    const settled = new AbortController();
    void process.settled.then(() => settled.abort());
    this.#clock.sleep(timeoutMs, settled.signal).then(
      () => this.#kill(process),
      () => {},
    );
  }

  async #kill(process: RunningProcess): Promise<void> {
    if (process.state.at !== "running") return;
    try {
      await this.#session.agent.signal(process.pid, sigkill);
    } catch (error) {
      if (!isDomainError(error, "not_found")) {
        this.#session.log.warn(
          { pid: process.pid, error: messageOf(error) },
          "the process cannot be killed at the end of its time",
        );
      }
    }
  }

  #endAll(): void {
    const { reason } = this.#session.ended;
    const error = reason instanceof Error ? reason : new DomainError("cancelled", "the session has ended");
    for (const process of this.#byPid.values()) process.lose(error);
    this.#byPid.clear();
    this.#ended.clear();
  }
}

function describe(spec: ProcessSpec): ProcessDescription {
  const { user: _, terminal, ...rest } = spec;
  return { ...rest, terminal: terminal !== undefined };
}

function describeListed({ pid: _, end: __, ...rest }: ProcessInfo): ProcessDescription {
  return { ...rest, stdin: true };
}

function notFound(selector: ProcessSelector): DomainError {
  const name = "pid" in selector ? `pid ${selector.pid}` : `tag '${selector.tag}'`;
  return new DomainError("not_found", `process with ${name} not found`);
}
