/**
 * A duplex pair: two byte streams, each of which reads the bytes that the other writes. The end of one ends the other.
 */
import { Duplex } from "node:stream";

class PairEnd extends Duplex {
  #other: PairEnd | undefined;
  /** Called when the other side reads again. */
  #resume: (() => void) | undefined;

  join(other: PairEnd): void {
    this.#other = other;
  }

  override _read(): void {
    this.#other?.wake();
  }

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, callback: () => void): void {
    if (this.#other?.push(chunk)) queueMicrotask(callback);
    else this.#resume = callback;
  }

  override _final(callback: () => void): void {
    this.#other?.push(null);
    callback();
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    callback(error);
    const other = this.#other;
    setImmediate(() => other?.destroy());
  }

  wake(): void {
    const resume = this.#resume;
    this.#resume = undefined;
    resume?.();
  }
}

export function duplexPair(): [Duplex, Duplex] {
  const left = new PairEnd();
  const right = new PairEnd();
  left.join(right);
  right.join(left);
  return [left, right];
}
