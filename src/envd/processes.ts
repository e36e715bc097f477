/** E2B's process service over a session. This file knows nothing of HTTP. */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  type ProcessConfig,
  type ProcessEvent,
  ProcessEventSchema,
  type ProcessInfo,
  ProcessInfoSchema,
  type ProcessInput,
  type ProcessSelector,
  type PTY,
  Signal,
  type StartRequest,
} from "../e2b/gen/process/process_pb.ts";
import { DomainError } from "../errors.ts";
import type { ProcessSubscription, ProcessEvent as TableEvent } from "../runtime/processes/process-subscription.ts";
import type { ProcessSelector as TableSelector } from "../runtime/processes/process-table.ts";
import type { RunningProcess } from "../runtime/processes/running-process.ts";
import type { Session } from "../runtime/sessions/session.ts";
import type { ProcessEnd, ProcessSpec, TerminalSize } from "../types.ts";
import { guestStatus, reword, rewordUser } from "./guest-errors.ts";
import { type StreamOptions, withKeepalive } from "./keepalive.ts";

const keepaliveEvent = create(ProcessEventSchema, { event: { case: "keepalive", value: {} } });
const defaultTerminal: TerminalSize = { columns: 80, rows: 24 };
const maxTerminalSide = 65_535;

/** Go's names of signals, where they are not `signal N`. */
const signalNames: Readonly<Record<number, string>> = {
  1: "hangup",
  2: "interrupt",
  3: "quit",
  4: "illegal instruction",
  5: "trace/breakpoint trap",
  6: "aborted",
  7: "bus error",
  8: "floating point exception",
  9: "killed",
  10: "user defined signal 1",
  11: "segmentation fault",
  12: "user defined signal 2",
  13: "broken pipe",
  14: "alarm clock",
  15: "terminated",
};

/**
 * Starts a process and streams its events, from start to end. Leaving the stream does not end the process. SIGKILL
 * ends it `timeoutMs` after its start.
 */
export async function* startProcess(
  session: Session,
  request: StartRequest,
  user: string | undefined,
  options: StreamOptions & { readonly timeoutMs: number | undefined },
): AsyncGenerator<ProcessEvent> {
  const spec = specOf(request, user);
  const started = await session.processes
    .start(spec, options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs })
    .catch((error: unknown) => {
      throw rewordStart(error, spec);
    });
  yield* eventsOf(started.process, started.events, options);
}

/** Joins a process that runs, or ended a moment ago, and streams start, output after this moment, end. */
export async function* connectProcess(
  session: Session,
  selector: ProcessSelector | undefined,
  options: StreamOptions,
): AsyncGenerator<ProcessEvent> {
  const process = await session.processes.find(selectorOf(selector));
  yield* eventsOf(process, process.subscribe(), options);
}

/** Lists live processes that were started through the API. */
export async function listProcesses(session: Session): Promise<ProcessInfo[]> {
  return (await session.processes.list()).map(({ pid, description }) =>
    create(ProcessInfoSchema, {
      pid,
      config: {
        cmd: description.command,
        args: [...description.args],
        envs: { ...description.envs },
        ...(description.cwd !== undefined && { cwd: description.cwd }),
      },
      ...(description.tag !== undefined && { tag: description.tag }),
    }),
  );
}

export async function sendInput(
  session: Session,
  selector: ProcessSelector | undefined,
  input: ProcessInput | undefined,
): Promise<void> {
  await writeInput(await session.processes.findLive(selectorOf(selector)), input);
}

/** Writes the bytes of one message to the process. @throws DomainError `invalid_argument` when it has none */
export async function writeInput(process: RunningProcess, input: ProcessInput | undefined): Promise<void> {
  switch (input?.input.case) {
    case "stdin":
      return process.write("stdin", input.input.value);
    case "pty":
      return process.write("terminal", input.input.value);
    default:
      throw new DomainError("invalid_argument", "input must have stdin or pty bytes");
  }
}

/** The live process that a message selects. @throws DomainError `not_found`, `invalid_argument` */
export function findLiveProcess(session: Session, selector: ProcessSelector | undefined): Promise<RunningProcess> {
  return session.processes.findLive(selectorOf(selector));
}

/**
 * Closes stdin, and does nothing when the process has none or it is closed already.
 * @throws ConnectError `unknown` for a terminal
 */
export async function closeStdin(session: Session, selector: ProcessSelector | undefined): Promise<void> {
  const process = await findLiveProcess(session, selector);
  if (process.description.terminal) {
    throw new ConnectError("the process has a terminal, whose input ends with Ctrl+D (0x04)", Code.Unknown);
  }
  await process.closeStdin();
}

export async function sendSignal(
  session: Session,
  selector: ProcessSelector | undefined,
  signal: Signal,
): Promise<void> {
  if (signal !== Signal.SIGKILL && signal !== Signal.SIGTERM) {
    throw new DomainError("unsupported", `invalid signal: ${signal}`);
  }
  await session.processes.signal(selectorOf(selector), signal);
}

/** Resizes the terminal. A message without a size changes nothing. */
export async function updateProcess(
  session: Session,
  selector: ProcessSelector | undefined,
  pty: PTY | undefined,
): Promise<void> {
  const process = await findLiveProcess(session, selector);
  if (pty?.size) process.resize(terminalSizeOf(pty));
}

async function* eventsOf(
  process: RunningProcess,
  subscription: ProcessSubscription,
  options: StreamOptions,
): AsyncGenerator<ProcessEvent> {
  // The process must not wait for a reader that has gone, even for one that never asks for another event.
  const leave = () => subscription.close();
  options.signal.addEventListener("abort", leave, { once: true });
  try {
    yield create(ProcessEventSchema, { event: { case: "start", value: { pid: process.pid } } });
    yield* withKeepalive(messagesOf(subscription), keepaliveEvent, options);
  } finally {
    options.signal.removeEventListener("abort", leave);
    leave();
  }
}

/** It is no generator, because `return` must reach the subscription while a `next` is under way. */
function messagesOf(subscription: ProcessSubscription): AsyncIterator<ProcessEvent> {
  return {
    next: async () => {
      const result = await subscription.next();
      return result.done ? result : { done: false, value: toMessage(result.value) };
    },
    return: () => subscription.return() as Promise<IteratorReturnResult<undefined>>,
  };
}

function toMessage(event: TableEvent): ProcessEvent {
  if (event.type === "end") {
    return create(ProcessEventSchema, { event: { case: "end", value: endOf(event.end) } });
  }
  const output = { case: event.channel === "terminal" ? "pty" : event.channel, value: event.bytes } as const;
  return create(ProcessEventSchema, { event: { case: "data", value: { output } } });
}

/** The end in Go's words: `exit status 3`, `signal: killed`. `error` repeats the status of every end but success. */
function endOf(end: ProcessEnd) {
  const status =
    end.signal !== undefined && !end.exited
      ? `signal: ${signalNames[end.signal] ?? `signal ${end.signal}`}`
      : `exit status ${end.exitCode}`;
  const failed = !end.exited || end.exitCode !== 0;
  return { exitCode: end.exitCode, exited: end.exited, status, ...(failed && { error: status }) };
}

function specOf(request: StartRequest, user: string | undefined): ProcessSpec {
  const config: ProcessConfig | undefined = request.process;
  if (!config?.cmd) throw new DomainError("invalid_argument", "process.cmd must not be empty");
  return {
    command: config.cmd,
    args: config.args,
    envs: config.envs,
    stdin: request.stdin ?? true,
    // An empty cwd counts as absent.
    ...(config.cwd && { cwd: config.cwd }),
    ...(user !== undefined && { user }),
    ...(request.tag !== undefined && { tag: request.tag }),
    ...(request.pty && { terminal: terminalSizeOf(request.pty) }),
  };
}

function terminalSizeOf({ size }: PTY): TerminalSize {
  if (!size) return defaultTerminal;
  if (size.cols > maxTerminalSide || size.rows > maxTerminalSide) {
    throw new DomainError("invalid_argument", `a terminal has at most ${maxTerminalSide} columns and rows`);
  }
  return { columns: size.cols, rows: size.rows };
}

function selectorOf(selector: ProcessSelector | undefined): TableSelector {
  switch (selector?.selector.case) {
    case "pid":
      return { pid: selector.selector.value };
    case "tag":
      return { tag: selector.selector.value };
    default:
      throw new DomainError("invalid_argument", "a process must be selected by pid or tag");
  }
}

/** The error of a start in words for the client. A command that cannot start is the client's mistake. */
export function rewordStart(error: unknown, spec: ProcessSpec): unknown {
  const status = guestStatus(error);
  if (status === undefined || !(error instanceof DomainError)) return error;
  if (status === "unauthenticated") return rewordUser(error, spec.user);
  const isAboutPath = status === "not_found" || status === "not_a_directory" || status === "invalid_argument";
  if (isAboutPath && error.details.path !== undefined && error.details.path !== spec.command) {
    return reword(error, "invalid_argument", `cwd '${error.details.path}' does not exist`);
  }
  if (isAboutPath || status === "permission_denied") return reword(error, "invalid_argument", error.message);
  return error;
}
