/**
 * The data queue holds the bytes of one stream that have arrived and were not read yet. They are at most a window, but
 * a guest may send them one by one. The queue is a rope of blocks with run lengths beside it, so that its memory
 * follows the bytes and not the number of frames.
 */

export interface DataChunk {
  /** See `Channel` in `protocol.ts`. */
  readonly channel: number;
  readonly bytes: Uint8Array;
}

/** A payload of this size or more is kept as it is, unless it {@link isSliver}. */
const keptPayloadBytes = 1_024;
/**
 * A view keeps its whole buffer in memory. For a buffer up to this many times its size, that is cheaper than a copy.
 */
const keptBufferRatio = 4;
const firstBlockBytes = 512;
const largestBlockBytes = 16_384;

function isSliver(bytes: Uint8Array): boolean {
  return bytes.length * keptBufferRatio < bytes.buffer.byteLength;
}

/** The same bytes, in a buffer of their own if their present buffer is much larger. */
export function detached(bytes: Uint8Array): Uint8Array {
  return isSliver(bytes) ? Uint8Array.from(bytes) : bytes;
}

export class DataQueue {
  /** The bytes, in order; runs do not end where blocks end. The first block is read from `#blockAt` on. */
  #blocks: Uint8Array[] = [];
  #blockAt = 0;
  /** Channel and length of each run of bytes of one channel, one after the other, read from `#runAt` on. */
  #runs: number[] = [];
  #runAt = 0;
  /**
   * The block that small payloads are copied to, and the number of its used bytes. While in use it is last in
   * `#blocks`.
   */
  #tail: Uint8Array | undefined;
  #tailUsed = 0;

  push(channel: number, payload: Uint8Array): void {
    if (payload.length === 0) return;
    this.#addRun(channel, payload.length);
    if (payload.length >= keptPayloadBytes && !isSliver(payload)) {
      this.#sealTail();
      this.#blocks.push(payload);
    } else {
      this.#copyToTail(payload);
    }
  }

  /** Takes the next bytes, all of one channel; undefined when the queue is empty. */
  shift(): DataChunk | undefined {
    const block = this.#blocks[0];
    const channel = this.#runs[this.#runAt];
    const runLength = this.#runs[this.#runAt + 1];
    if (block === undefined || channel === undefined || runLength === undefined) return undefined;
    const blockEnd = block === this.#tail ? this.#tailUsed : block.length;
    const end = Math.min(blockEnd, this.#blockAt + runLength);
    const bytes = block.subarray(this.#blockAt, end);
    this.#runs[this.#runAt + 1] = runLength - bytes.length;
    if (bytes.length === runLength) this.#dropRun();
    this.#blockAt = end;
    if (end === blockEnd) {
      this.#blocks.shift();
      this.#blockAt = 0;
      if (block === this.#tail) this.#tail = undefined;
    }
    return { channel, bytes };
  }

  clear(): void {
    this.#blocks = [];
    this.#blockAt = 0;
    this.#runs = [];
    this.#runAt = 0;
    this.#tail = undefined;
  }

  #addRun(channel: number, length: number): void {
    const last = this.#runs.length - 2;
    if (last >= this.#runAt && this.#runs[last] === channel)
      this.#runs[last + 1] = (this.#runs[last + 1] ?? 0) + length;
    else this.#runs.push(channel, length);
  }

  #dropRun(): void {
    this.#runAt += 2;
    // Once half of the runs are read, the rest moves to the front, so that a queue that is never empty does not grow.
    if (this.#runAt * 2 < this.#runs.length) return;
    this.#runs = this.#runs.slice(this.#runAt);
    this.#runAt = 0;
  }

  #sealTail(): void {
    if (this.#tail === undefined) return;
    this.#blocks[this.#blocks.length - 1] = this.#tail.subarray(0, this.#tailUsed);
    this.#tail = undefined;
  }

  #copyToTail(payload: Uint8Array): void {
    let from = 0;
    while (from < payload.length) {
      if (this.#tail === undefined || this.#tailUsed === this.#tail.length) this.#addTail(payload.length - from);
      from += this.#fillTail(payload, from);
    }
  }

  #addTail(needed: number): void {
    const wanted = Math.max(needed, firstBlockBytes, 2 * (this.#tail?.length ?? 0));
    this.#tail = Buffer.allocUnsafe(Math.min(wanted, largestBlockBytes));
    this.#tailUsed = 0;
    this.#blocks.push(this.#tail);
  }

  #fillTail(payload: Uint8Array, from: number): number {
    if (this.#tail === undefined) return 0;
    const bytes = Math.min(payload.length - from, this.#tail.length - this.#tailUsed);
    this.#tail.set(payload.subarray(from, from + bytes), this.#tailUsed);
    this.#tailUsed += bytes;
    return bytes;
  }
}
