/**
 * One queue per key: work on the same sandbox waits its turn, so that a legal race (a kill during a pause, say) ends in
 * a documented answer. Keys without work cost nothing.
 */

/** What is queued under one key. */
interface Line {
  /** The last piece of work; the line is removed when it ends and nothing follows. Never rejects. */
  tail: Promise<unknown>;
  /** Of all work that came after the last one who overtook. */
  overtaken: AbortController;
}

export class SerialQueue {
  readonly #lines = new Map<string, Line>();

  /**
   * Runs `work` after everything already queued under `key`, whatever became of that.
   * @param work is given a signal that aborts when it is not to wait any longer for what others have to give: see
   *   {@link overtake}
   */
  run<T>(key: string, work: (overtaken: AbortSignal) => Promise<T>): Promise<T> {
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

  /** Tells all work that is queued under `key` now, under way or not, to wait for nothing: what comes next has to be soon. */
  overtake(key: string, reason: Error): void {
    const line = this.#lines.get(key);
    if (!line) return;
    line.overtaken.abort(reason);
    line.overtaken = new AbortController();
  }

  /** Resolves when nothing is under way. */
  async idle(): Promise<void> {
    while (this.#lines.size > 0) await Promise.all([...this.#lines.values()].map(({ tail }) => tail));
  }
}
