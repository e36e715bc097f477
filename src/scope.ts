/**
 * A scope is a last-in-first-out list of undo steps: code that opens a resource adds the undo at once, and closing the
 * scope runs them all. Node 20 has no AsyncDisposableStack.
 */
export type Undo = () => undefined | void | PromiseLike<void>;

export class Scope implements AsyncDisposable {
  /** The steps still to run, oldest first; empty once the scope is closed. */
  #undos: Undo[] = [];
  /** Set by the first `close()`. Every later caller gets the same promise. */
  #closing: Promise<void> | undefined;

  /**
   * Registers an undo step. A step that is added after the scope began to close runs at once, because a resource that
   * was opened meanwhile must not leak.
   */
  defer(undo: Undo): void {
    if (this.#closing) {
      this.#closing = this.#closing.then(undo);
      return;
    }
    this.#undos.push(undo);
  }

  /** Registers the disposal of `resource` and returns it. */
  use<T extends AsyncDisposable>(resource: T): T {
    this.defer(() => resource[Symbol.asyncDispose]());
    return resource;
  }

  /** Forgets every step, because the opened resources belong to another owner now. */
  release(): void {
    this.#undos = [];
  }

  /**
   * Runs every step, newest first, even if others fail.
   * @throws AggregateError with the errors of all steps that failed.
   */
  close(): Promise<void> {
    this.#closing ??= this.#run();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #run(): Promise<void> {
    const errors: unknown[] = [];
    for (let undo = this.#undos.pop(); undo; undo = this.#undos.pop()) {
      try {
        await undo();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw new AggregateError(errors, `${errors.length} clean-up step(s) failed`);
  }
}

/**
 * Like `Promise.all`, but a failure waits for the others, so that nothing of theirs happens after the clean-up: no file
 * appears in a folder that was removed, and no file is used that was closed.
 */
export async function allSettledOrThrow<T extends readonly unknown[]>(
  promises: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  await Promise.allSettled(promises);
  return Promise.all(promises);
}
