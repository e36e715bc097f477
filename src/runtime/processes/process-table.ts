/**
 * The processes of one session. A process outlives the client that started it; how it ended is kept for a while, so
 * that a client that connects late still learns it. Processes that this table did not start (an earlier daemon did) are
 * adopted from what the guest agent lists.
 */
import type { Clock } from "../../clock.ts";
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { AttachedProcess, GuestAgent } from "../../guest/agent.ts";
import type { Logger } from "../../log.ts";
import type { ProcessInfo, ProcessSpec, SpanName } from "../../types.ts";
import type { SessionLog } from "./process-log.ts";
import type { ProcessSubscription } from "./process-subscription.ts";
import { type ProcessDescription, RunningProcess } from "./running-process.ts";

/** How long the end of a process is kept for a late Connect. */
const KEEP_END_MS = 30_000;
/** At most so many ends are kept, the latest ones. */
const MAX_KEPT_ENDS = 1_024;
const SIGKILL = 9;
/** How long a kill waits to see the process end: a descendant may hold its output open for much longer. */
const AWAIT_KILLED_MS = 500;

export type ProcessSelector = { readonly pid: number } | { readonly tag: string };

/** What the table needs of its session; see `Session`, which has all of it. */
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
  /** Live processes, and ended ones for {@link KEEP_END_MS}; a reused pid replaces the ended one. */
  readonly #byPid = new Map<number, RunningProcess>();
  /** The ended ones of them, in the order of their ends. */
  readonly #ended = new Set<RunningProcess>();
  /** Starts under way: the agent may list their processes before this table knows them. */
  readonly #starting = new Set<Promise<unknown>>();
  #adopting: Promise<void> | undefined;

  /** @param log takes down what the processes do */
  constructor(session: ProcessTableSession, clock: Clock, log?: SessionLog) {
    this.#session = session;
    this.#clock = clock;
    this.#log = log;
    session.ended.addEventListener("abort", () => this.#endAll(), { once: true });
  }

  /**
   * Starts a process; resolves once it runs. With `timeoutMs` it is killed that long after this call, whoever still
   * listens; with `keepOutput` its output is kept from the first byte on.
   * @throws what the guest agent says of a command that cannot start.
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

  /** Live processes, oldest first, adopted ones included. */
  async list(): Promise<RunningProcess[]> {
    await this.#adopt();
    return [...this.#byPid.values()].filter((process) => process.state.at === "running");
  }

  /** A process that runs or ended within the last 30 seconds; live ones first. @throws not_found. */
  async find(selector: ProcessSelector): Promise<RunningProcess> {
    const known = this.#lookUp(selector);
    if (known) return known;
    await this.#adopt();
    const adopted = this.#lookUp(selector);
    if (adopted) return adopted;
    throw notFound(selector);
  }

  /** A process that runs. @throws not_found. */
  async findLive(selector: ProcessSelector): Promise<RunningProcess> {
    const process = await this.find(selector);
    if (process.state.at !== "running") throw notFound(selector);
    return process;
  }

  /** Sends a signal to that one process. A client that killed one may count on its being gone. @throws not_found. */
  async signal(selector: ProcessSelector, signal: number): Promise<void> {
    const process = await this.findLive(selector);
    try {
      await this.#session.agent.signal(process.pid, signal);
    } catch (error) {
      throw isDomainError(error, "not_found") ? notFound(selector) : error;
    }
    if (signal === SIGKILL) await this.#awaitEnd(process, AWAIT_KILLED_MS);
  }

  async #awaitEnd(process: RunningProcess, atMostMs: number): Promise<void> {
    const settled = new AbortController();
    const slept = this.#clock.sleep(atMostMs, settled.signal).catch(() => {});
    await Promise.race([process.settled, slept]);
    settled.abort();
  }

  #lookUp(selector: ProcessSelector): RunningProcess | undefined {
    this.#forgetOldEnds();
    if ("pid" in selector) return this.#byPid.get(selector.pid);
    const tagged = [...this.#byPid.values()].filter((process) => process.description.tag === selector.tag);
    return tagged.find((process) => process.state.at === "running") ?? tagged.at(-1);
  }

  #forgetOldEnds(): void {
    const oldestMs = this.#clock.monotonicMs() - KEEP_END_MS;
    for (const process of this.#ended) {
      const { state } = process;
      const isFresh = state.at === "ended" && state.atMs >= oldestMs;
      if (isFresh && this.#ended.size <= MAX_KEPT_ENDS) return;
      this.#ended.delete(process);
      this.#forget(process);
    }
  }

  /** Unless its pid belongs to a newer process by now. */
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
    // A process that is just being started is listed but not ours yet: attaching would take its stream away.
    await Promise.allSettled(this.#starting);
    for (const info of listed) {
      if (this.#byPid.has(info.pid)) continue;
      try {
        const attached = await this.#session.agent.attach({ pid: info.pid });
        if (this.#session.ended.aborted || this.#byPid.has(attached.pid)) attached.detach();
        else this.#add(attached, describeListed(info));
      } catch (error) {
        // It may have been forgotten between the two questions; anything else concerns this one process only.
        if (!isDomainError(error, "not_found")) {
          this.#session.log.warn({ pid: info.pid, error: messageOf(error) }, "could not attach to a process");
        }
      }
    }
  }

  /** @param started of a process that this table started */
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
      // A lost process may well run on: forgotten here, it is adopted again once the link is back.
      if (process.state.at === "lost") this.#forget(process);
      else this.#ended.add(process);
    });
    // Re-inserted, so that the map stays in order of start.
    this.#byPid.delete(process.pid);
    this.#byPid.set(process.pid, process);
    return process;
  }

  /** The timer ends with the process. */
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
      await this.#session.agent.signal(process.pid, SIGKILL);
    } catch (error) {
      if (!isDomainError(error, "not_found")) {
        this.#session.log.warn({ pid: process.pid, error: messageOf(error) }, "could not kill a process in time");
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
