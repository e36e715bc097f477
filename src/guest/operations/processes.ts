/** The process operations: start, attach, list, signal. */
import { DomainError } from "../../errors.ts";
import type { ProcessEnd, ProcessInfo, ProcessSpec, TerminalSize } from "../../types.ts";
import type { AttachedProcess, GuestAgent, OutputChannel, OutputChunk } from "../agent.ts";
import { onAbort, throwIfAborted } from "../link/abort.ts";
import { type Fields, FieldWriter } from "../link/fields.ts";
import type { FrameLink } from "../link/frame-link.ts";
import { ControlKind, EventKind, Operation, protocolError, Tag } from "../link/protocol.ts";
import type { GuestStream } from "../link/stream.ts";
import { StreamIterator } from "../link/stream-iterator.ts";
import { decodeEnvs, encodeEnvs } from "./envs.ts";

/** The names of output channels, by the channel number of a DATA frame. */
const outputChannels: readonly (OutputChannel | undefined)[] = [undefined, "stdout", "stderr", "terminal"];

/** Linux's number of SIGKILL, on every kind of host. */
const sigkill = 9;
/** A list with more processes than any guest has is an attack. */
const maxProcesses = 65_536;
/** The processes of a guest may have large environments and arguments; the daemon holds no more of them than this. */
const maxListBytes = 16 * 2 ** 20;

export function processOperations(link: FrameLink): Pick<GuestAgent, "exec" | "attach" | "listProcesses" | "signal"> {
  const signal = async (pid: number, number: number) =>
    link.call(Operation.signal, new FieldWriter().integer(Tag.pid, pid).integer(Tag.signal, number), () => {});

  /** Ends a process as soon as it has started, because its caller has gone. */
  async function killOnStart(stream: GuestStream, started: Promise<number>): Promise<void> {
    const pid = await started;
    await signal(pid, sigkill);
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
          // Fails only when there is no process to kill: it has not started, or the link has ended.
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
      let bytes = 0;
      const decode = (fields: Fields) => ({ some: decodeProcesses(fields), size: fields.byteLength });
      for await (const { some, size } of new StreamIterator(stream, () =>
        stream.takeEvent(EventKind.processes, decode),
      )) {
        processes.push(...some);
        bytes += size;
        if (processes.length > maxProcesses) throw stream.breakLink(protocolError("an endless list of processes"));
        if (bytes > maxListBytes) {
          const message = `the list of processes has over ${maxListBytes / 2 ** 20} MiB of arguments and environments`;
          throw new DomainError("capacity_exhausted", message);
        }
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
    // A caller that needs the end awaits it. A broken link must not take the daemon down when no caller does.
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
  const channel = outputChannels[chunk.channel];
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
