/**
 * A running process is one process in a guest, with its single guest stream fanned out to any number of subscribers.
 *
 * The pump reads on while any subscriber has room, so that a slow subscriber slows only its own stream. When all
 * subscribers are full the pump stops reading, and the process waits behind the guest link's window. A subscriber that
 * falls `maxLagBytes` behind the others is cut off. Without a subscriber the output is taken no faster than the unwanted
 * pace allows, and dropped.
 */
import { type Clock, comesWithin } from "../../clock.ts";
import { DomainError, messageOf } from "../../errors.ts";
import type { AttachedProcess, OutputChunk } from "../../guest/agent.ts";
import type { ProcessEnd, ProcessSpec, TerminalSize } from "../../types.ts";
import { OutputTape } from "./output-tape.ts";
import { ProcessSubscription } from "./process-subscription.ts";
import { UnwantedPace } from "./unwanted-pace.ts";

/** The most input that waits for a process that does not read; more is refused. */
const maxPendingInputBytes = 32 * 1024 * 1024;

/**
 * A process, without its pid. The agent does not list whether stdin is open, so an adopted process has `stdin: true`.
 */
export type ProcessDescription = Omit<ProcessSpec, "user" | "terminal"> & { readonly terminal: boolean };

export type ProcessState =
  | { readonly at: "running" }
  /** `atMs` on the monotonic clock. */
  | { readonly at: "ended"; readonly end: ProcessEnd; readonly atMs: number }
  /** The link broke or the session ended, so that the end of the process stays unknown. */
  | { readonly at: "lost"; readonly error: Error };

export class RunningProcess {
  readonly pid: number;
  #description: ProcessDescription;
  readonly #attached: AttachedProcess;
  readonly #clock: Clock;
  /** Resolves when the state is `ended` or `lost`. */
  readonly settled: Promise<void>;
  #resolveSettled: () => void = () => {};
  readonly #subscriptions = new Set<ProcessSubscription>();
  #state: ProcessState = { at: "running" };
  #tape: OutputTape | undefined;
  readonly #pace: UnwantedPace;
  /** Wakes the pump when it waits for room, or keeps to the unwanted pace. */
  #wakePump: (() => void) | undefined;
  /** The last input under way, because inputs go in one after another. */
  #inputTail: Promise<void> = Promise.resolve();
  #pendingInputBytes = 0;
  #stdinOpen: boolean;

  /** Starts to read the output at once. Subscribe in the same turn to miss nothing. */
  constructor(
    attached: AttachedProcess,
    description: ProcessDescription,
    clock: Clock,
    onOutput: (chunk: OutputChunk) => void = () => {},
  ) {
    this.pid = attached.pid;
    this.#description = description;
    this.#attached = attached;
    this.#clock = clock;
    this.#pace = new UnwantedPace(clock);
    this.#stdinOpen = description.stdin && !description.terminal;
    this.settled = new Promise((resolve) => {
      this.#resolveSettled = resolve;
    });
    void this.#pump(onOutput);
  }

  /** An ended process has no arguments and environment any more, because they may be large. */
  get description(): ProcessDescription {
    return this.#description;
  }

  get state(): ProcessState {
    return this.#state;
  }

  get subscriberCount(): number {
    return this.#subscriptions.size;
  }

  /** Keeps the newest output from the first call on. Most processes have no reader that comes back for it. */
  keepOutput(): OutputTape {
    this.#tape ??= new OutputTape();
    return this.#tape;
  }

  /**
   * Gives the output from now on, then the end; for a process that has ended, the end alone.
   * @throws the error of a process that was lost
   */
  subscribe(): ProcessSubscription {
    return this.#subscribe([]);
  }

  /**
   * {@link subscribe} with the kept output from `offset` on before it.
   * @returns also the offset at which the kept output begins, which is later than `offset` when less is kept
   * @throws DomainError `invalid_argument` when the process has not got to `offset`; the error of a process that was
   *   lost
   */
  replay(offset: number): { readonly events: ProcessSubscription; readonly fromOffset: number } {
    const tape = this.keepOutput();
    const fromOffset = Math.max(offset, tape.startOffset);
    return { events: this.#subscribe(tape.from(fromOffset)), fromOffset };
  }

  /**
   * Sends input to stdin or the terminal, after all input sent before; resolves when the guest took it.
   * @throws DomainError `internal` when the process has no such input, `capacity_exhausted` when too much input waits
   */
  async write(kind: "stdin" | "terminal", bytes: Uint8Array): Promise<void> {
    this.#checkInput(kind);
    if (this.#pendingInputBytes + bytes.byteLength > maxPendingInputBytes) {
      throw new DomainError("capacity_exhausted", `process with pid ${this.pid} does not read its input`);
    }
    this.#pendingInputBytes += bytes.byteLength;
    const write = this.#inputTail.then(async () => {
      try {
        await this.#attached.write(bytes);
      } catch (error) {
        throw new DomainError(
          "internal",
          `error writing to ${inputName(kind)}: ${messageOf(error)}`,
          {},
          { cause: error },
        );
      } finally {
        this.#pendingInputBytes -= bytes.byteLength;
      }
    });
    this.#inputTail = write.catch(() => {});
    await write;
  }

  /** Closes stdin for good, after all input sent before. */
  async closeStdin(): Promise<void> {
    if (!this.#stdinOpen) return;
    this.#stdinOpen = false;
    this.#inputTail = this.#inputTail.then(() => {
      if (this.#state.at === "running") this.#attached.closeStdin();
    });
    await this.#inputTail;
  }

  /** @throws DomainError `internal` when the process has no terminal */
  resize(size: TerminalSize): void {
    if (!this.description.terminal)
      throw new DomainError("internal", "error resizing tty: tty not assigned to process");
    this.#attached.resize(size);
  }

  /** Lets go of the process, which goes on, and ends every subscription with `error`. */
  lose(error: Error): void {
    if (this.#state.at !== "running") return;
    this.#attached.detach();
    this.#settle({ at: "lost", error });
  }

  #subscribe(before: readonly OutputChunk[]): ProcessSubscription {
    const state = this.#state;
    if (state.at === "lost") throw state.error;
    const subscription = new ProcessSubscription((progressed) => {
      if (!progressed.live) this.#subscriptions.delete(progressed);
      this.#wakePump?.();
    });
    for (const chunk of before) subscription.push({ type: "output", ...chunk });
    if (state.at === "ended") {
      subscription.push({ type: "end", end: state.end });
      subscription.finish();
    } else {
      this.#subscriptions.add(subscription);
      this.#wakePump?.();
    }
    return subscription;
  }

  #checkInput(kind: "stdin" | "terminal"): void {
    const { terminal } = this.description;
    if (kind === "terminal" && !terminal) {
      throw new DomainError("internal", "error writing to tty: tty not assigned to process");
    }
    if (kind === "stdin" && terminal) {
      throw new DomainError("internal", "error writing to stdin: the process has a terminal, write to its pty");
    }
    if (kind === "stdin" && !this.#stdinOpen) {
      throw new DomainError("internal", "error writing to stdin: stdin not enabled or closed");
    }
  }

  async #pump(onOutput: (chunk: OutputChunk) => void): Promise<void> {
    // A break of the link may reject `end` before the loop below is done with the output.
    this.#attached.end.catch(() => {});
    try {
      for await (const chunk of this.#attached.output) {
        onOutput(chunk);
        this.#tape?.append(chunk);
        for (const subscription of this.#subscriptions) {
          subscription.push({ type: "output", channel: chunk.channel, bytes: chunk.bytes });
          if (!subscription.live) this.#subscriptions.delete(subscription);
        }
        if (this.#subscriptions.size === 0) await this.#keepPace(chunk.bytes.byteLength);
        while (this.#state.at === "running" && !this.#someoneHasRoom()) await this.#progress();
        if (this.#state.at !== "running") return;
      }
      const end = await this.#attached.end;
      this.#settle({ at: "ended", end, atMs: this.#clock.monotonicMs() });
    } catch (error) {
      this.#settle({ at: "lost", error: error instanceof Error ? error : new Error(messageOf(error)) });
    }
  }

  /** Waits as long as the unwanted pace asks for after that many bytes, at most until a subscriber comes. */
  async #keepPace(bytes: number): Promise<void> {
    const waitMs = this.#pace.take(bytes);
    if (waitMs === 0 || this.#state.at !== "running") return;
    await comesWithin(this.#clock, this.#progress(), waitMs);
    this.#wakePump = undefined;
  }

  #someoneHasRoom(): boolean {
    if (this.#subscriptions.size === 0) return true;
    for (const subscription of this.#subscriptions) if (subscription.hasRoom) return true;
    return false;
  }

  #progress(): Promise<void> {
    return new Promise((resolve) => {
      this.#wakePump = () => {
        this.#wakePump = undefined;
        resolve();
      };
    });
  }

  #settle(state: Exclude<ProcessState, { at: "running" }>): void {
    if (this.#state.at !== "running") return;
    this.#state = state;
    for (const subscription of this.#subscriptions) {
      if (state.at === "ended") {
        subscription.push({ type: "end", end: state.end });
        subscription.finish();
      } else {
        subscription.finish(state.error);
      }
    }
    this.#subscriptions.clear();
    this.#description = { ...this.#description, args: [], envs: {} };
    this.#wakePump?.();
    this.#resolveSettled();
  }
}

function inputName(kind: "stdin" | "terminal"): string {
  return kind === "stdin" ? "stdin" : "tty";
}
