/** Work that several callers want at once is done once. It ends early only when the last of them has gone. */

interface Shared<T> {
  readonly done: Promise<T>;
  readonly cancel: AbortController;
  waiting: number;
}

export class SharedWork<Key, T = void> {
  readonly #running = new Map<Key, Shared<T>>();

  /**
   * The result of the work with this key: of the one under way, or of one that is started.
   * @throws what the work throws; the signal's reason when the caller goes first
   */
  async run(key: Key, signal: AbortSignal, start: (signal: AbortSignal) => Promise<T>): Promise<T> {
    signal.throwIfAborted();
    const shared = this.#running.get(key) ?? this.#start(key, start);
    shared.waiting += 1;
    let leave: (() => void) | undefined;
    const gone = new Promise<never>((_, reject) => {
      leave = () => reject(signal.reason as Error);
      signal.addEventListener("abort", leave, { once: true });
    });
    try {
      return await Promise.race([shared.done, gone]);
    } finally {
      if (leave) signal.removeEventListener("abort", leave);
      shared.waiting -= 1;
      if (shared.waiting === 0) {
        shared.cancel.abort(signal.reason);
        // Whoever leaves last waits until nothing is left of the work.
        await shared.done.catch(() => {});
      }
    }
  }

  #start(key: Key, start: (signal: AbortSignal) => Promise<T>): Shared<T> {
    const cancel = new AbortController();
    const done = start(cancel.signal).finally(() => {
      if (this.#running.get(key)?.cancel === cancel) this.#running.delete(key);
    });
    const shared = { done, cancel, waiting: 0 };
    this.#running.set(key, shared);
    return shared;
  }
}
