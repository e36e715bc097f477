/** The pulse lets async code wait for a change of some state, which that code then looks at again itself. */
export class Pulse {
  #next: Promise<void> | undefined;
  #resolve: () => void = () => {};

  /** Resolves at the next {@link fire}; waiters wake in the order in which they came. */
  wait(): Promise<void> {
    this.#next ??= new Promise((resolve) => {
      this.#resolve = resolve;
    });
    return this.#next;
  }

  fire(): void {
    this.#next = undefined;
    this.#resolve();
  }
}
