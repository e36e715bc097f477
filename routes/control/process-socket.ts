/**
 * A process socket is one WebSocket to one process of a sandbox. It starts the process or attaches to it, carries
 * input, signals and sizes in and output out. The process outlives the connection. A client that reads slowly makes
 * its own process wait, and no other.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { WebSocket } from "@fastify/websocket";
import { rewordStart } from "../../src/envd/processes.ts";
import { DomainError, isDomainError, messageOf } from "../../src/errors.ts";
import type { ProcessSubscription } from "../../src/runtime/processes/process-subscription.ts";
import type { RunningProcess } from "../../src/runtime/processes/running-process.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";
import type { ProcessSpec } from "../../src/types.ts";
import { internalMessage, statusOf } from "../http/errors.ts";
import { whenSessionEnds } from "../http/session-end.ts";
import { encodeOutput, parseFirstMessage, parseLaterMessage } from "./process-messages.ts";
import {
  closeCodes,
  type FirstMessage,
  type LaterMessage,
  type ProcessSocketKind,
  type ServerMessage,
  signalNumbers,
} from "./process-protocol.ts";

/** The socket takes no output from the process while the client has this much of it still to read. */
const maxBufferedBytes = 256 * 1024;
/** The socket reads nothing from the client while the process has this much input still to read, until half is left. */
const maxPendingBytes = 256 * 1024;
/** A message counts as this many bytes more than it has, so that a flood of tiny messages is bounded too. */
const messageCostBytes = 256;
/** How often a terminal's process is sent SIGHUP at most. */
const hangups = 5;
const hangupPauseMs = 500;

/** As E2B's SDKs start a terminal. */
const shell = { command: "/bin/bash", args: ["-i", "-l"] };
const shellEnvs = { TERM: "xterm-256color", LANG: "C.UTF-8", LC_ALL: "C.UTF-8" };

type State =
  /** The first message has not come, for `beats` heartbeats. */
  | { readonly at: "waiting"; readonly beats: number }
  /** Later messages of the client wait for `opened`, which is undefined when the client has left. */
  | { readonly at: "opening"; readonly opened: Promise<RunningProcess | undefined> }
  | { readonly at: "attached"; readonly process: RunningProcess; readonly events: ProcessSubscription }
  | { readonly at: "closed" };

interface Message {
  readonly bytes: Buffer;
  readonly isBinary: boolean;
}

interface Opened {
  readonly process: RunningProcess;
  readonly events: ProcessSubscription;
  readonly greeting: readonly ServerMessage[];
}

export class ProcessSocket {
  readonly #socket: WebSocket;
  readonly #session: Session;
  readonly #kind: ProcessSocketKind;
  readonly #forgetSession: () => void;
  #state: State = { at: "waiting", beats: 0 };
  #pendingBytes = 0;
  /** Pending while the client wants no output; `#goOn` resolves it. */
  #wanted: Promise<void> = Promise.resolve();
  #goOn: (() => void) | undefined;
  /** Whether the client gave a sign of life since the last heartbeat. */
  #isAlive = true;

  constructor(socket: WebSocket, session: Session, kind: ProcessSocketKind) {
    this.#socket = socket;
    this.#session = session;
    this.#kind = kind;
    socket.on("message", (bytes: Buffer, isBinary: boolean) => this.#receive({ bytes, isBinary }));
    socket.on("pong", () => this.#noteLife());
    socket.once("close", (code: number) => this.#afterClose(code));
    this.#forgetSession = whenSessionEnds(session, () => this.#fail(session.ended.reason));
    if (session.ended.aborted) this.#fail(session.ended.reason);
  }

  get sandboxId(): string {
    return this.#session.sandboxId;
  }

  /** The heartbeat: ends a connection when its client has gone, or has sent no first message. */
  beat(): void {
    const isMute = this.#state.at === "waiting" && this.#state.beats > 0;
    // While its input waits for the process, the client's pongs are not read either.
    const isGone = !this.#isAlive && !this.#socket.isPaused;
    if (isMute) this.#close(closeCodes.noFirstMessage, "no first message: start or attach");
    else if (isGone) this.#socket.terminate();
    else if (this.#socket.readyState === this.#socket.OPEN) this.#socket.ping();
    this.#isAlive = false;
    if (this.#state.at === "waiting") this.#state = { at: "waiting", beats: 1 };
  }

  #receive(message: Message): void {
    this.#noteLife();
    const state = this.#state;
    if (state.at === "waiting") {
      const opened = this.#open(message);
      this.#state = { at: "opening", opened };
      this.#track(message, opened);
    } else if (state.at === "opening") {
      const handled = state.opened.then((process) => process && this.#handle(message, process));
      this.#track(message, handled);
    } else if (state.at === "attached") {
      this.#track(message, this.#handle(message, state.process));
    }
  }

  /** Counts a message as pending until `work` is done; reads no further while too much is. */
  #track({ bytes }: Message, work: Promise<unknown>): void {
    const cost = bytes.byteLength + messageCostBytes;
    this.#pendingBytes += cost;
    if (this.#pendingBytes > maxPendingBytes) this.#socket.pause();
    const settle = async () => {
      await work.catch((error: unknown) => this.#fail(error));
      this.#pendingBytes -= cost;
      if (this.#socket.isPaused && this.#pendingBytes < maxPendingBytes / 2) this.#socket.resume();
    };
    void settle();
  }

  async #open({ bytes, isBinary }: Message): Promise<RunningProcess | undefined> {
    if (isBinary) throw new DomainError("invalid_argument", "the first message must be start or attach");
    const first = parseFirstMessage(this.#kind, bytes.toString());
    const { process, events, greeting } = await (first.type === "start" ? this.#start(first) : this.#attach(first));
    if (this.#state.at !== "opening") {
      events.close();
      return undefined;
    }
    this.#state = { at: "attached", process, events };
    for (const message of greeting) void this.#say(message);
    void this.#pump(events);
    return process;
  }

  async #start(first: Extract<FirstMessage, { type: "start" }>): Promise<Opened> {
    const { timeoutMs } = first;
    const spec = specOf(first);
    const { process, events } = await this.#session.processes
      .start(spec, { keepOutput: true, ...(timeoutMs !== undefined && { timeoutMs }) })
      .catch((error: unknown) => {
        throw rewordStart(error, spec);
      });
    const { id: stream } = process.keepOutput();
    return { process, events, greeting: [{ type: "started", pid: process.pid, stream, offset: 0 }] };
  }

  async #attach({ pid, resume }: Extract<FirstMessage, { type: "attach" }>): Promise<Opened> {
    const process = await this.#session.processes.find({ pid });
    if (this.#kind === "terminal" && !process.description.terminal) {
      throw new DomainError("invalid_argument", `process with pid ${pid} has no terminal`);
    }
    const { id: stream, endOffset } = process.keepOutput();
    const isSame = resume?.stream === stream;
    const { events, fromOffset: offset } = process.replay(isSame ? resume.offset : endOffset);
    const greeting: ServerMessage[] = [{ type: "attached", pid, stream, offset }];
    if (resume && !isSame) greeting.push({ type: "gap", from: resume.offset, to: null });
    else if (resume && resume.offset < offset) greeting.push({ type: "gap", from: resume.offset, to: offset });
    return { process, events, greeting };
  }

  /**
   * Handles a later message. An error of the process is answered; an error of the message itself ends the connection.
   */
  async #handle({ bytes, isBinary }: Message, process: RunningProcess): Promise<void> {
    const message = isBinary ? undefined : parseLaterMessage(bytes.toString());
    // The process has just ended, and the client did not know when it sent this.
    if (process.state.at !== "running") return;
    try {
      await (message ? this.#control(message, process) : process.write(inputOf(process), bytes));
    } catch (error) {
      if (!isDomainError(error)) throw error;
      if (process.state.at === "running") await this.#say(errorMessage(error));
    }
  }

  async #control(message: LaterMessage, process: RunningProcess): Promise<void> {
    switch (message.type) {
      case "signal":
        return this.#session.processes.signal({ pid: process.pid }, signalNumbers[message.signal]);
      case "closeStdin":
        return process.closeStdin();
      case "resize":
        return process.resize({ columns: message.columns, rows: message.rows });
      case "pause":
        this.#goOn?.();
        this.#wanted = new Promise((resolve) => {
          this.#goOn = resolve;
        });
        return;
      case "resume":
        return this.#goOn?.();
      default:
        message satisfies never;
    }
  }

  async #pump(events: ProcessSubscription): Promise<void> {
    try {
      for await (const event of events) {
        if (event.type === "output") {
          await this.#wanted;
          await this.#send(encodeOutput(event.channel, event.bytes));
        } else {
          await this.#say({ type: "end", ...event.end });
          this.#close(closeCodes.done, "the process has ended");
        }
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  #say(message: ServerMessage): Promise<void> {
    return this.#send(JSON.stringify(message));
  }

  /** Resolves at once while the client keeps up, otherwise when the client took `data` or left. */
  #send(data: Buffer | string): Promise<void> {
    if (this.#socket.readyState !== this.#socket.OPEN) return Promise.resolve();
    return new Promise((resolve) => {
      this.#socket.send(data, (error) => {
        if (!error) this.#noteLife();
        resolve();
      });
      if (this.#socket.bufferedAmount <= maxBufferedBytes) resolve();
    });
  }

  #fail(error: unknown): void {
    if (this.#state.at === "closed") return;
    const known = isDomainError(error) ? error : new DomainError("internal", internalMessage);
    if (known !== error) this.#session.log.error({ err: error }, "a WebSocket to a process failed unexpectedly");
    void this.#say(errorMessage(known));
    this.#close(closeCodes.errorBase + statusOf(known), known.message);
  }

  #close(code: number, reason: string): void {
    this.#leave();
    // A paused connection would not read the client's answer to the close frame.
    this.#socket.resume();
    this.#socket.close(code, shortened(reason));
  }

  #afterClose(code: number): void {
    const { process } = this.#state.at === "attached" ? this.#state : {};
    this.#leave();
    // The client closed its terminal's window. A connection that broke has another code.
    if (code !== closeCodes.done || this.#kind !== "terminal" || process?.state.at !== "running") return;
    this.#hangUp(process).catch((error: unknown) => {
      this.#session.log.debug(
        { pid: process.pid, error: messageOf(error) },
        "the terminal's process cannot be hung up",
      );
    });
  }

  /**
   * Hangs up a process unless another client has attached to it. It takes more than one signal, because a shell that is
   * about to read its next line misses one.
   */
  async #hangUp(process: RunningProcess): Promise<void> {
    for (let n = 0; n < hangups && process.state.at === "running" && process.subscriberCount === 0; n++) {
      await this.#session.processes.signal({ pid: process.pid }, signalNumbers.SIGHUP);
      await delay(hangupPauseMs, undefined, { ref: false });
    }
  }

  #leave(): void {
    if (this.#state.at === "attached") this.#state.events.close();
    this.#state = { at: "closed" };
    this.#goOn?.();
    this.#forgetSession();
  }

  #noteLife(): void {
    this.#isAlive = true;
  }
}

function specOf(start: Extract<FirstMessage, { type: "start" }>): ProcessSpec {
  const { args, envs, cwd, user, tag } = start;
  const common = { ...(cwd && { cwd }), ...(user && { user }), ...(tag && { tag }) };
  if ("stdin" in start) return { ...common, command: start.command, args, envs, stdin: start.stdin };
  const command = start.command === undefined ? shell : { command: start.command, args };
  const terminal = { columns: start.columns, rows: start.rows };
  return { ...common, ...command, envs: { ...shellEnvs, ...envs }, stdin: true, terminal };
}

function inputOf({ description }: RunningProcess): "stdin" | "terminal" {
  return description.terminal ? "terminal" : "stdin";
}

function errorMessage({ code, message }: DomainError): ServerMessage {
  return { type: "error", code, message };
}

/** A close frame has room for 123 bytes of reason; a character cut in two becomes one of three bytes. */
function shortened(reason: string): string {
  return Buffer.from(reason).subarray(0, 120).toString();
}
