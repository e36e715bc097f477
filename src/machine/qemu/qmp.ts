/**
 * A client of QEMU's machine protocol (QMP) over a Unix socket: JSON lines, a greeting, then commands that are answered
 * by id, with events in between. QEMU is not trusted, so lines are bounded and every command has a deadline.
 */
import type { Socket } from "node:net";
import { z } from "zod";
import { DomainError, messageOf } from "../../errors.ts";
import { openSocketWhenBound } from "../socket.ts";

/** The longest honest line is a console dump of 64 KiB, which JSON escapes may make six times as long. */
const maxLineBytes = 1 << 20;
const defaultDeadlineMs = 5000;

const messageSchema = z.union([
  z.object({ return: z.unknown(), id: z.number() }),
  z.object({ error: z.object({ class: z.string(), desc: z.string() }), id: z.number().optional() }),
  z.object({ event: z.string(), data: z.record(z.string(), z.unknown()).optional() }),
  z.object({ QMP: z.record(z.string(), z.unknown()) }),
]);
type Message = z.infer<typeof messageSchema>;

interface PendingCommand {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: DomainError) => void;
  readonly timer: NodeJS.Timeout;
}

type EventListener = (event: string, data: Readonly<Record<string, unknown>>) => void;

export class QmpClient {
  readonly #socket: Socket;
  readonly #pending = new Map<number, PendingCommand>();
  readonly #listeners = new Set<EventListener>();
  /** Bytes of the line that is not complete yet. */
  #partial: Buffer[] = [];
  #partialBytes = 0;
  #nextId = 1;
  #failure: DomainError | undefined;
  readonly #greeted: Promise<void>;
  #greet: (() => void) | undefined;
  #refuse: ((error: DomainError) => void) | undefined;
  /** Resolves with the reason when the connection has ended; never rejects. */
  readonly closed: Promise<DomainError>;
  #close: ((error: DomainError) => void) | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => {
      this.#close = resolve;
    });
    this.#greeted = new Promise((resolve, reject) => {
      this.#greet = resolve;
      this.#refuse = reject;
    });
    this.#greeted.catch(() => {});
    socket.on("data", (chunk: Buffer) => this.#receive(chunk));
    socket.on("error", (error) => this.#fail(`QMP connection broke: ${error.message}`));
    socket.on("close", () => this.#fail("QEMU closed the QMP connection"));
  }

  /**
   * Connects, waits for the greeting and negotiates. Tries again while QEMU does not listen at `path` yet.
   * @param options.owner the user who must have bound the socket
   * @throws DomainError `machine_failed` when QEMU is not there by the deadline or speaks something else
   */
  static async connect(
    path: string,
    options: { deadlineMs?: number; signal?: AbortSignal; owner?: number | undefined } = {},
  ): Promise<QmpClient> {
    const { deadlineMs = defaultDeadlineMs, signal, owner } = options;
    const end = performance.now() + deadlineMs;
    const client = new QmpClient(await openSocketWhenBound(path, end, signal, owner));
    const abort = () => client.#fail("the connection to QEMU was given up");
    const timer = setTimeout(
      () => client.#fail(`QEMU sent no greeting within ${deadlineMs} ms`),
      end - performance.now(),
    );
    signal?.addEventListener("abort", abort, { once: true });
    try {
      signal?.throwIfAborted();
      await client.#greeted;
      await client.execute("qmp_capabilities", {}, Math.max(1, end - performance.now()));
      return client;
    } catch (error) {
      client.close();
      throw error;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  /**
   * Runs one command and returns what QEMU returned.
   * @throws DomainError `machine_failed` with QEMU's own words (`details.class`), when the connection breaks, or
   *   `deadline_exceeded`
   */
  execute(command: string, args: Record<string, unknown> = {}, deadlineMs = defaultDeadlineMs): Promise<unknown> {
    if (this.#failure) return Promise.reject(this.#failure);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(new DomainError("deadline_exceeded", `QEMU did not answer ${command} within ${deadlineMs} ms`));
      }, deadlineMs);
      this.#pending.set(id, { resolve, reject, timer });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
  }

  /** Calls `listener` on every event until the returned function is called. */
  onEvent(listener: EventListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Closes the connection; QEMU goes on. Commands that wait for their answer reject. */
  close(): void {
    this.#fail("the QMP connection was closed");
  }

  /** Lets the daemon's process end although the connection is open. */
  unref(): void {
    this.#socket.unref();
  }

  #receive(chunk: Buffer): void {
    let rest = chunk;
    for (let newline = rest.indexOf(10); newline >= 0 && !this.#failure; newline = rest.indexOf(10)) {
      const line = Buffer.concat([...this.#partial, rest.subarray(0, newline)]);
      this.#partial = [];
      this.#partialBytes = 0;
      rest = rest.subarray(newline + 1);
      this.#acceptLine(line.toString("utf8").trim());
    }
    this.#partialBytes += rest.length;
    if (this.#partialBytes > maxLineBytes) this.#fail(`QEMU sent a line of more than ${maxLineBytes} bytes`);
    else if (rest.length > 0) this.#partial.push(rest);
  }

  #acceptLine(line: string): void {
    if (line.length === 0) return;
    let message: Message;
    try {
      message = messageSchema.parse(JSON.parse(line));
    } catch (error) {
      this.#fail(`QEMU sent something that is not QMP: ${messageOf(error).slice(0, 200)}`);
      return;
    }
    if ("QMP" in message) this.#greet?.();
    else if ("event" in message) for (const listener of this.#listeners) listener(message.event, message.data ?? {});
    else if ("error" in message) {
      const { class: kind, desc } = message.error;
      this.#settle(message.id, (pending) =>
        pending.reject(new DomainError("machine_failed", `QEMU: ${desc}`, { class: kind })),
      );
    } else {
      const value = message.return;
      this.#settle(message.id, (pending) => pending.resolve(value));
    }
  }

  /** An answer to a command that was given up is dropped. */
  #settle(id: number | undefined, act: (pending: PendingCommand) => void): void {
    const pending = id === undefined ? undefined : this.#pending.get(id);
    if (id === undefined || !pending) return;
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    act(pending);
  }

  #fail(reason: string): void {
    if (this.#failure) return;
    const failure = new DomainError("machine_failed", reason);
    this.#failure = failure;
    this.#socket.destroy();
    this.#partial = [];
    for (const id of [...this.#pending.keys()]) this.#settle(id, (pending) => pending.reject(failure));
    this.#refuse?.(failure);
    this.#listeners.clear();
    this.#close?.(failure);
  }
}
