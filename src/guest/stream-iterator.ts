/** What arrives on a stream, as an async iterator. */
import { DomainError } from "../errors.ts";
import type { GuestStream } from "./stream.ts";

/**
 * Yields what `take` gives until the stream has ended, and throws what it failed with. Leaving early resets the
 * stream. Not an async generator: the `return` of one waits for a `next` that is under way, which here may be forever.
 */
export class StreamIterator<T> implements AsyncIterableIterator<T> {
  readonly #stream: GuestStream;
  /** The next item if it is there; undefined if not. */
  readonly #take: () => T | undefined;
  #returned = false;

  constructor(stream: GuestStream, take: () => T | undefined) {
    this.#stream = stream;
    this.#take = take;
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    for (;;) {
      if (this.#returned) return { done: true, value: undefined };
      const value = this.#take();
      if (value !== undefined) return { done: false, value };
      if (!this.#stream.isOpen) {
        await this.#stream.result(() => undefined);
        return { done: true, value: undefined };
      }
      await this.#stream.changed();
    }
  }

  async return(): Promise<IteratorResult<T, undefined>> {
    this.#returned = true;
    this.#stream.reset(new DomainError("cancelled", "Nobody reads this any more"));
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
