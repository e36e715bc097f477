/** The scripted agent: a test plays its processes by hand, emits output, ends them, and sees what they are sent. */
import { DomainError } from "../../../src/errors.ts";
import type { AttachedProcess, GuestAgent, OutputChannel, OutputChunk } from "../../../src/guest/agent.ts";
import type { ProcessEnd, ProcessInfo, ProcessSpec } from "../../../src/types.ts";

export class ScriptedProcess implements AttachedProcess {
  readonly pid: number;
  readonly end: Promise<ProcessEnd>;
  readonly output: AsyncIterable<OutputChunk>;
  readonly written: string[] = [];
  /** How many chunks the process table has taken. */
  taken = 0;
  detached = false;
  stdinClosed = false;
  size: { columns: number; rows: number } | undefined;
  /** Set to make writes wait. */
  writeGate: Promise<void> = Promise.resolve();
  readonly #chunks: OutputChunk[] = [];
  #over = false;
  #failure: Error | undefined;
  #wake: () => void = () => {};
  #resolveEnd: (end: ProcessEnd) => void = () => {};
  #rejectEnd: (error: Error) => void = () => {};

  constructor(pid: number) {
    this.pid = pid;
    this.end = new Promise((resolve, reject) => {
      this.#resolveEnd = resolve;
      this.#rejectEnd = reject;
    });
    this.output = this.#read();
  }

  emit(text: string | Uint8Array, channel: OutputChannel = "stdout"): void {
    this.#chunks.push({ channel, bytes: typeof text === "string" ? Buffer.from(text) : text });
    this.#wake();
  }

  exit(end: ProcessEnd = { exitCode: 0, exited: true }): void {
    this.#over = true;
    this.#resolveEnd(end);
    this.#wake();
  }

  breakLink(): void {
    this.#failure = new DomainError("machine_failed", "the link broke");
    this.#rejectEnd(this.#failure);
    this.#wake();
  }

  async write(bytes: Uint8Array): Promise<void> {
    await this.writeGate;
    this.written.push(Buffer.from(bytes).toString());
  }

  closeStdin(): void {
    this.stdinClosed = true;
  }

  resize(size: { columns: number; rows: number }): void {
    this.size = size;
  }

  detach(): void {
    this.detached = true;
    this.#rejectEnd(new DomainError("cancelled", "detached"));
    this.#over = true;
    this.#wake();
  }

  async *#read(): AsyncGenerator<OutputChunk> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk) {
        this.taken++;
        yield chunk;
      } else if (this.#failure) {
        throw this.#failure;
      } else if (this.#over) {
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}

/** It has only the operations on processes; no other method of {@link GuestAgent} may be called. */
export class ScriptedAgent {
  readonly processes: ScriptedProcess[] = [];
  readonly specs: ProcessSpec[] = [];
  readonly signals: { pid: number; signal: number }[] = [];
  /** The processes that `listProcesses` gives. */
  listed: ProcessInfo[] = [];
  attached: number[] = [];
  /** Set to make `exec` wait. */
  execGate: Promise<void> = Promise.resolve();
  #nextPid = 100;

  async exec(spec: ProcessSpec): Promise<AttachedProcess> {
    this.specs.push(spec);
    const process = new ScriptedProcess(this.#nextPid++);
    this.processes.push(process);
    await this.execGate;
    return process;
  }

  async attach(selector: { pid: number } | { tag: string }): Promise<AttachedProcess> {
    if (!("pid" in selector)) throw new DomainError("not_found", "no such process");
    this.attached.push(selector.pid);
    const process = new ScriptedProcess(selector.pid);
    this.processes.push(process);
    return process;
  }

  async listProcesses(): Promise<ProcessInfo[]> {
    return this.listed;
  }

  async signal(pid: number, signal: number): Promise<void> {
    this.signals.push({ pid, signal });
  }

  asAgent(): GuestAgent {
    return this as unknown as GuestAgent;
  }
}
