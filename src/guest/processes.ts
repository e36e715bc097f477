/** Processes in the guest: start, attach, list, signal. */
import { DomainError } from "../errors.ts";
import type { ProcessEnd, ProcessInfo, ProcessSpec, TerminalSize } from "../types.ts";
import { onAbort, throwIfAborted } from "./abort.ts";
import type { AttachedProcess, GuestAgent, OutputChannel, OutputChunk } from "./agent.ts";
import { decodeEnvs, encodeEnvs } from "./envs.ts";
import { type Fields, FieldWriter } from "./fields.ts";
import type { FrameLink } from "./frame-link.ts";
import { ControlKind, EventKind, Operation, protocolError, Tag } from "./protocol.ts";
import type { GuestStream } from "./stream.ts";
import { StreamIterator } from "./stream-iterator.ts";

/** By the channel of a DATA frame. */
const OUTPUT_CHANNELS: readonly (OutputChannel | undefined)[] = [undefined, "stdout", "stderr", "terminal"];

/** Linux's number, whatever the host is. */
const SIGKILL = 9;
/** More than any guest has. */
const MAX_PROCESSES = 65_536;

export function processOperations(link: FrameLink): Pick<GuestAgent, "exec" | "attach" | "listProcesses" | "signal"> {
  const signal = async (pid: number, number: number) =>
    link.call(Operation.signal, new FieldWriter().integer(Tag.pid, pid).integer(Tag.signal, number), () => {});

  /** Nobody will ever know of this process: ends it as soon as it has started. */
  async function killOnStart(stream: GuestStream, started: Promise<number>): Promise<void> {
    const pid = await started;
    await signal(pid, SIGKILL);
    stream.reset(new DomainError("cancelled", "Cancelled"));
  }

  return {
    signal,

    async exec(spec, abort) {
      throwIfAborted(abort);
      const stream = link.open(Operation.exec, encodeSpec(spec));
      const started = stream.event(EventKind.started, decodePid);
      const pid = await new Promise<number>((resolve, reject) => {
        const listening = onAbort(abort, (reason) => {
          reject(reason);
          // Fails only when there is nothing to kill: it never started, or the link is gone.
          killOnStart(stream, started).catch(() => {});
        });
        started.finally(() => listening[Symbol.dispose]()).then(resolve, reject);
      });
      return new StreamProcess(pid, stream);
    },

    async attach(selector) {
      const fields = new FieldWriter();
      if ("pid" in selector) fields.integer(Tag.pid, selector.pid);
      else fields.string(Tag.tag, selector.tag);
      const stream = link.open(Operation.attach, fields);
      return new StreamProcess(await stream.event(EventKind.started, decodePid), stream);
    },

    async listProcesses() {
      const stream = link.open(Operation.list, new FieldWriter());
      const processes: ProcessInfo[] = [];
      for await (const some of new StreamIterator(stream, () =>
        stream.takeEvent(EventKind.processes, decodeProcesses),
      )) {
        processes.push(...some);
        if (processes.length > MAX_PROCESSES) throw stream.breakLink(protocolError("an endless list of processes"));
      }
      return processes.concat(await stream.result(decodeProcesses));
    },
  };
}

class StreamProcess implements AttachedProcess {
  readonly pid: number;
  readonly output: AsyncIterable<OutputChunk>;
  readonly end: Promise<ProcessEnd>;
  readonly #stream: GuestStream;

  constructor(pid: number, stream: GuestStream) {
    this.pid = pid;
    this.#stream = stream;
    this.output = new StreamIterator(stream, () => takeOutput(stream));
    this.end = stream.result(decodeEnd);
    // Whoever cares awaits it; a link that breaks must not take the daemon down because nobody does.
    this.end.catch(() => {});
  }

  write(bytes: Uint8Array): Promise<void> {
    return this.#stream.outlet.send(bytes);
  }

  closeStdin(): void {
    void this.#stream.outlet.end();
  }

  resize(size: TerminalSize): void {
    const fields = new FieldWriter().integer(Tag.columns, size.columns).integer(Tag.rows, size.rows);
    this.#stream.control(fields.payload(ControlKind.resize));
  }

  detach(): void {
    this.#stream.reset(new DomainError("cancelled", "Detached from the process"));
  }
}

function takeOutput(stream: GuestStream): OutputChunk | undefined {
  const chunk = stream.takeData();
  if (chunk === undefined) return undefined;
  const channel = OUTPUT_CHANNELS[chunk.channel];
  if (channel === undefined) throw stream.breakLink(protocolError(`output on channel ${chunk.channel}`));
  return { channel, bytes: chunk.bytes };
}

function encodeSpec(spec: ProcessSpec): FieldWriter {
  const fields = new FieldWriter()
    .string(Tag.command, spec.command)
    .strings(Tag.argument, spec.args)
    .strings(Tag.env, encodeEnvs(spec.envs))
    .string(Tag.cwd, spec.cwd)
    .string(Tag.user, spec.user)
    .string(Tag.tag, spec.tag)
    .boolean(Tag.stdin, spec.stdin);
  if (!spec.terminal) return fields;
  return fields
    .boolean(Tag.pty, true)
    .integer(Tag.columns, spec.terminal.columns)
    .integer(Tag.rows, spec.terminal.rows);
}

function decodePid(fields: Fields): number {
  return fields.integer(Tag.pid);
}

function decodeEnd(fields: Fields): ProcessEnd {
  const signal = fields.optionalInteger(Tag.signal);
  return {
    exitCode: Number(fields.signed(Tag.exitCode)),
    exited: fields.boolean(Tag.exited),
    ...(signal !== undefined && { signal }),
  };
}

function decodeProcesses(fields: Fields): ProcessInfo[] {
  return fields.groups(Tag.process).map(decodeProcess);
}

function decodeProcess(fields: Fields): ProcessInfo {
  const cwd = fields.optionalString(Tag.cwd);
  const tag = fields.optionalString(Tag.tag);
  return {
    pid: fields.integer(Tag.pid),
    command: fields.string(Tag.command),
    args: fields.strings(Tag.argument),
    envs: decodeEnvs(fields.strings(Tag.env)),
    ...(cwd !== undefined && { cwd }),
    ...(tag !== undefined && { tag }),
    terminal: fields.boolean(Tag.pty),
    ...(fields.has(Tag.exitCode) && { end: decodeEnd(fields) }),
  };
}
