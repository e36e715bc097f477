/**
 * A client of one helper's control socket: requests that are answered by id, and the machine's state as it changes. The
 * helper is not trusted, so lines are bounded, every request has a deadline, and one bad message ends the connection.
 */
import type { Socket } from "node:net";
import { z } from "zod";
import { DomainError, messageOf } from "../../errors.ts";
import { openSocketWhenBound } from "../socket.ts";
import {
  decodeHelperMessage,
  type Hello,
  type HelperMessage,
  type HelperRequest,
  helloSchema,
  type MachineState,
  nothingSchema,
  protocolVersion,
  toDomainError,
} from "./helper-messages.ts";
import { LineDecoder } from "./line-decoder.ts";

/** A helper answers in a millisecond, if its machine's queue has time. */
const defaultDeadlineMs = 5000;

interface PendingRequest {
  readonly op: string;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: DomainError) => void;
  readonly timer: NodeJS.Timeout;
}

/** A helper may be in the middle of a save when the daemon that ordered it is gone. */
const settleDeadlineMs = 60_000;

type StateListener = (state: MachineState, detail: string | undefined) => void;
/** A request without its id, for each operation. */
type Order<Request> = Request extends HelperRequest ? Omit<Request, "id"> : never;

export interface ConnectOptions {
  /** For the connection and the greeting together. */
  readonly deadlineMs: number;
  /** Gives the connection up. */
  readonly signal?: AbortSignal | undefined;
}

export class HelperClient {
  /** The helper's answer to the greeting. */
  readonly hello: Hello;
  readonly #connection: Connection;

  private constructor(connection: Connection, hello: Hello) {
    this.#connection = connection;
    this.hello = hello;
  }

  /**
   * Connects, greets and follows the machine's state. Tries again while the helper does not listen at `path` yet, or
   * too many connections wait there.
   * @throws DomainError `machine_failed` when no helper answers by the deadline, `failed_precondition` for a helper of
   *   another version
   */
  static async connect(path: string, { deadlineMs, signal }: ConnectOptions): Promise<HelperClient> {
    const end = performance.now() + deadlineMs;
    const connection = new Connection(await openSocketWhenBound(path, end, signal));
    const abort = () => connection.fail("the helper was given up");
    signal?.addEventListener("abort", abort, { once: true });
    try {
      signal?.throwIfAborted();
      const left = () => Math.max(1, end - performance.now());
      const hello = await connection.request({ op: "hello", version: protocolVersion }, helloSchema, left());
      await connection.request({ op: "events" }, nothingSchema, left());
      return new HelperClient(connection, hello);
    } catch (error) {
      connection.fail("the helper was given up");
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** Resolves with the reason when the connection has ended; never rejects. */
  get closed(): Promise<DomainError> {
    return this.#connection.closed;
  }

  /**
   * Sends a request and checks the shape of its answer.
   * @throws DomainError with the helper's words, `machine_failed` when the connection breaks, `deadline_exceeded`
   */
  request<T>(order: Order<HelperRequest>, schema: z.ZodType<T>, deadlineMs = defaultDeadlineMs): Promise<T> {
    return this.#connection.request(order, schema, deadlineMs);
  }

  /** Calls `listener` with the last state known and with every later one. */
  onState(listener: StateListener): void {
    this.#connection.onState(listener);
  }

  /** Closes the connection; the helper goes on. Requests that wait for their answer reject. */
  close(): void {
    this.#connection.fail("the connection to the helper was closed");
  }

  /** Lets the daemon's process end although the connection is open. */
  unref(): void {
    this.#connection.unref();
  }
}

/** The machine's state once no operation is under way. A save that an earlier daemon ordered is waited for. */
export function settledState(client: HelperClient): Promise<MachineState> {
  return new Promise((resolve, reject) => {
    const late = new DomainError("deadline_exceeded", `its machine is busy for more than ${settleDeadlineMs} ms`);
    const timer = setTimeout(() => reject(late), settleDeadlineMs);
    void client.closed.then(reject);
    void client.closed.then(() => clearTimeout(timer));
    client.onState((state) => {
      if (!["new", "running", "paused", "stopped", "failed"].includes(state)) return;
      clearTimeout(timer);
      resolve(state);
    });
  });
}

class Connection {
  readonly closed: Promise<DomainError>;
  readonly #socket: Socket;
  readonly #decoder = new LineDecoder();
  readonly #pending = new Map<number, PendingRequest>();
  readonly #listeners = new Set<StateListener>();
  #lastState: Extract<HelperMessage, { kind: "event" }> | undefined;
  #nextId = 1;
  #failure: DomainError | undefined;
  #close: ((error: DomainError) => void) | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => {
      this.#close = resolve;
    });
    socket.on("data", (chunk: Buffer) => this.#receive(chunk));
    socket.on("error", (error) => this.fail(`the connection to the helper broke: ${error.message}`));
    socket.on("close", () => this.fail("the helper closed the connection"));
  }

  async request<T>(order: Order<HelperRequest>, schema: z.ZodType<T>, deadlineMs = defaultDeadlineMs): Promise<T> {
    const parsed = schema.safeParse(await this.#ask(order, deadlineMs));
    if (parsed.success) return parsed.data;
    this.fail(`the helper answered ${order.op} with something else: ${z.prettifyError(parsed.error)}`);
    throw this.#failure;
  }

  onState(listener: StateListener): void {
    this.#listeners.add(listener);
    if (this.#lastState) listener(this.#lastState.state, this.#lastState.detail);
  }

  unref(): void {
    this.#socket.unref();
  }

  fail(reason: string): void {
    if (this.#failure) return;
    const failure = new DomainError("machine_failed", reason);
    this.#failure = failure;
    this.#socket.destroy();
    for (const id of [...this.#pending.keys()]) this.#settle(id, (pending) => pending.reject(failure));
    this.#listeners.clear();
    this.#close?.(failure);
  }

  #ask(order: Order<HelperRequest>, deadlineMs: number): Promise<unknown> {
    if (this.#failure) return Promise.reject(this.#failure);
    const id = this.#nextId++;
    const { op } = order;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(new DomainError("deadline_exceeded", `the helper did not answer ${op} within ${deadlineMs} ms`));
      }, deadlineMs);
      this.#pending.set(id, { op, resolve, reject, timer });
      this.#socket.write(`${JSON.stringify({ id, ...order })}\n`);
    });
  }

  #receive(chunk: Buffer): void {
    try {
      for (const line of this.#decoder.take(chunk)) {
        if (this.#failure) return;
        this.#accept(decodeHelperMessage(line));
      }
    } catch (error) {
      this.fail(messageOf(error));
    }
  }

  #accept(message: HelperMessage): void {
    switch (message.kind) {
      case "event":
        this.#lastState = message;
        for (const listener of this.#listeners) listener(message.state, message.detail);
        return;
      case "success":
        this.#settle(message.id, (pending) => pending.resolve(message.result));
        return;
      case "failure":
        // A failure without an id is about the connection, which the helper ends next.
        if (message.id === null) this.fail(toDomainError("go on", message.error).message);
        else this.#settle(message.id, (pending) => pending.reject(toDomainError(pending.op, message.error)));
        return;
      default:
        message satisfies never;
    }
  }

  /** An answer to a request that was given up is dropped. */
  #settle(id: number, act: (pending: PendingRequest) => void): void {
    const pending = this.#pending.get(id);
    if (!pending) return;
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    act(pending);
  }
}
