/**
 * A last-in-first-out list of undo steps: whoever opens something pushes its undo at once, and closing the scope runs
 * them all. Node 20 has no AsyncDisposableStack.
 */
export type Undo = () => undefined | void | PromiseLike<void>;

export class Scope implements AsyncDisposable {
  /** Steps still to run, oldest first. Empty once closed. */
  #undos: Undo[] = [];
  /** Set by the first `close()`; every later caller gets the same promise. */
  #closing: Promise<void> | undefined;

  /**
   * Registers an undo step. A step added after the scope began to close runs at once: a resource that was opened while
   * its owner was giving up must not leak.
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

  /** Forgets every step: what was opened now belongs to somebody else. */
  release(): void {
    this.#undos = [];
  }

  /**
   * Runs every step, newest first, whatever the others do.
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
