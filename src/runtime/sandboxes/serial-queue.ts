/**
 * The serial queue runs one piece of work at a time for each key: work on the same sandbox waits its turn, so that a
 * legal race (a kill during a pause, say) ends in a documented answer. Keys without work cost nothing.
 */
import { daemonStopping } from "../../errors.ts";

/** The work that is queued under one key. */
interface WaitingLine {
  /** The last piece of work; the line is removed when it ends and nothing follows. Never rejects. */
  tail: Promise<unknown>;
  /** Aborts for all work that came after the last {@link SerialQueue.overtake}. */
  overtaken: AbortController;
}

/** @param overtaken aborts when the work is to stop waiting for capacity: see {@link SerialQueue.overtake} */
type Work<T> = (overtaken: AbortSignal) => Promise<T>;

export class SerialQueue {
  readonly #lines = new Map<string, WaitingLine>();
  #isClosed = false;

  /**
   * Runs `work` after everything already queued under `key`, whatever became of that.
   * @throws DomainError `not_ready` once the queue is closed
   */
  async run<T>(key: string, work: Work<T>): Promise<T> {
    if (this.#isClosed) throw daemonStopping();
    return this.runAlways(key, work);
  }

  /**
   * As {@link run}, in a closed queue too: for work that ends something or goes on with what has its capacity already.
   */
  runAlways<T>(key: string, work: Work<T>): Promise<T> {
    const line = this.#lines.get(key) ?? { tail: Promise.resolve(), overtaken: new AbortController() };
    this.#lines.set(key, line);
    const { signal } = line.overtaken;
    const result = line.tail.then(() => work(signal));
    const tail = result
      .catch(() => {}) // the caller has the result; the queue only needs to know that it ended
      .then(() => {
        if (line.tail === tail) this.#lines.delete(key);
      });
    line.tail = tail;
    return result;
  }

  /**
   * Tells all work that is queued under `key` now, under way or not, to stop waiting: the work that comes next is
   * urgent.
   */
  overtake(key: string, reason: Error): void {
    const line = this.#lines.get(key);
    if (!line) return;
    line.overtaken.abort(reason);
    line.overtaken = new AbortController();
  }

  /** Refuses new work: the daemon stops. */
  close(): void {
    this.#isClosed = true;
  }

  /** Resolves when nothing is under way. */
  async idle(): Promise<void> {
    while (this.#lines.size > 0) await Promise.all([...this.#lines.values()].map(({ tail }) => tail));
  }
}
