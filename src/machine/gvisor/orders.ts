/** The orders of a keeper (`keeper.c`): a line each, answered by a line, one at a time. */
import type { Socket } from "node:net";
import { DomainError } from "../../errors.ts";
import { openSocket, openSocketWhenBound } from "../socket.ts";

const maxAnswerBytes = 4096;

/** How long runsc may take for an order. */
const orderDeadlineMs = 30_000;

interface Waiting {
  readonly resolve: (answer: string) => void;
  readonly reject: (error: Error) => void;
}

export class Orders {
  /** Resolves when a connection has ended: the keeper is gone, or an order was late. */
  readonly closed: Promise<void>;
  readonly #path: string;
  #socket: Socket;
  #isClosed = false;
  #isHeld = true;
  #text = "";
  #waiting: Waiting | undefined;
  /** Orders wait for each other. */
  #last: Promise<unknown> = Promise.resolve();

  private constructor(path: string, socket: Socket) {
    this.#path = path;
    this.#socket = socket;
    this.closed = new Promise((resolve) => void socket.once("close", () => resolve()));
    this.#listen(socket);
  }

  /** @throws DomainError `machine_failed`; the signal's reason */
  static async connect(path: string, options: { deadlineMs?: number; signal?: AbortSignal } = {}): Promise<Orders> {
    const { deadlineMs, signal } = options;
    if (deadlineMs === undefined) return new Orders(path, await openSocket(path));
    return new Orders(path, await openSocketWhenBound(path, performance.now() + deadlineMs, signal));
  }

  /**
   * Gives an order and waits for it to be done.
   * @returns what the answer has after `ok`
   * @throws DomainError `machine_failed` with what runsc said, `deadline_exceeded`
   */
  give(order: string, deadlineMs: number = orderDeadlineMs): Promise<string> {
    const turn = this.#last.then(() => this.#give(order, deadlineMs));
    this.#last = turn.catch(() => {});
    return turn;
  }

  /** The socket keeps no process from ending. */
  unref(): void {
    this.#isHeld = false;
    this.#socket.unref();
  }

  close(): void {
    this.#isClosed = true;
    this.#socket.destroy();
  }

  #listen(socket: Socket): void {
    this.#text = "";
    if (!this.#isHeld) socket.unref();
    socket.setEncoding("utf8").on("data", (piece: string) => this.#take(piece));
    socket.on("error", () => {});
    socket.once("close", () => {
      if (socket === this.#socket) this.#waiting?.reject(ended());
    });
  }

  /** After an order that was late, the next one goes over another connection. */
  async #connectAgain(): Promise<void> {
    if (this.#isClosed) throw ended();
    this.#socket = await openSocket(this.#path).catch((error: unknown) => {
      throw ended(error);
    });
    this.#listen(this.#socket);
  }

  async #give(order: string, deadlineMs: number): Promise<string> {
    if (this.#socket.destroyed) await this.#connectAgain();
    let timer: NodeJS.Timeout | undefined;
    const answer = await new Promise<string>((resolve, reject) => {
      this.#waiting = { resolve, reject };
      timer = setTimeout(() => {
        // The answer that comes late is nobody's.
        this.#socket.destroy();
        reject(new DomainError("deadline_exceeded", `gVisor has not done "${order}" within ${deadlineMs} ms`));
      }, deadlineMs);
      this.#socket.write(`${order}\n`);
    }).finally(() => {
      clearTimeout(timer);
      this.#waiting = undefined;
    });
    if (answer.startsWith("ok")) return answer.slice("ok ".length);
    throw new DomainError("machine_failed", `gVisor cannot do "${order}": ${answer.replace(/^error: /, "")}`);
  }

  #take(piece: string): void {
    this.#text = (this.#text + piece).slice(0, maxAnswerBytes);
    const end = this.#text.indexOf("\n");
    if (end < 0) return;
    const answer = this.#text.slice(0, end);
    this.#text = this.#text.slice(end + 1);
    this.#waiting?.resolve(answer);
  }
}

function ended(cause?: unknown): DomainError {
  return new DomainError("machine_failed", "the machine's keeper has ended", {}, { cause });
}
