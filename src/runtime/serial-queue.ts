/**
 * One queue per key: work on the same sandbox waits its turn, so that a legal race (a kill during a pause, say) ends in
 * a documented answer. Keys without work cost nothing.
 */
export class SerialQueue {
  /** The last piece of work of each key; removed when it ends and nothing follows. Never rejects. */
  readonly #tails = new Map<string, Promise<unknown>>();

  /** Runs `work` after everything already queued under `key`, whatever became of that. */
  run<T>(key: string, work: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key) ?? Promise.resolve();
    const result = before.then(work);
    const tail = result
      .catch(() => {}) // the caller has the result; the queue only needs to know that it ended
      .then(() => {
        if (this.#tails.get(key) === tail) this.#tails.delete(key);
      });
    this.#tails.set(key, tail);
    return result;
  }

  /** Resolves when nothing is under way. */
  async idle(): Promise<void> {
    while (this.#tails.size > 0) await Promise.all(this.#tails.values());
  }
}
