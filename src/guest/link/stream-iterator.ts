/** The stream iterator: arrivals on a stream, as an async iterator. */
import { DomainError } from "../../errors.ts";
import type { GuestStream } from "./stream.ts";

/**
 * Yields the items that `take` gives until the stream has ended, and throws the failure of the stream. Leaving early
 * resets the stream. This is not an async generator, because the `return` of one waits for a pending `next`, which here
 * may last for ever.
 */
export class StreamIterator<T> implements AsyncIterableIterator<T> {
  readonly #stream: GuestStream;
  /** Takes the next item if it is there; undefined if not. */
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
