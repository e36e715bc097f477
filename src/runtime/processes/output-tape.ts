/**
 * The output tape keeps the newest output of a process, so that a reader that lost its connection can go on where it
 * was. Offsets count the bytes of all channels together, from the first byte that the tape saw. The tape forgets all
 * but the newest {@link tapeBytes}.
 */
import { randomUUID } from "node:crypto";
import { DomainError } from "../../errors.ts";
import type { OutputChunk } from "../../guest/agent.ts";

/** The most that a tape keeps. */
export const tapeBytes = 256 * 1024;
/** Counted for each chunk besides its bytes, so that a flood of tiny chunks is bounded too. */
const chunkCostBytes = 128;

export class OutputTape {
  /** Offsets belong to one tape only: a restarted daemon has another tape, and so has a reused pid. */
  readonly id = randomUUID();
  /** Oldest first. */
  #chunks: OutputChunk[] = [];
  #costBytes = 0;
  #startOffset = 0;
  #endOffset = 0;

  /** The offset of the oldest byte that is kept. */
  get startOffset(): number {
    return this.#startOffset;
  }

  /** The offset of the byte that comes next. */
  get endOffset(): number {
    return this.#endOffset;
  }

  append({ channel, bytes }: OutputChunk): void {
    // A copy, because the bytes may be a view into a much larger buffer.
    this.#chunks.push({ channel, bytes: Buffer.from(bytes) });
    this.#endOffset += bytes.byteLength;
    this.#costBytes += bytes.byteLength + chunkCostBytes;
    while (this.#costBytes > tapeBytes) this.#forgetOldest();
  }

  /**
   * The kept output from `offset` on. @throws DomainError `invalid_argument` when the process has not got to `offset`
   */
  from(offset: number): OutputChunk[] {
    if (offset > this.#endOffset) {
      throw new DomainError("invalid_argument", `the process has put out ${this.#endOffset} bytes, not ${offset}`);
    }
    let at = this.#startOffset;
    return this.#chunks.flatMap(({ channel, bytes }) => {
      const skipped = Math.max(0, offset - at);
      at += bytes.byteLength;
      return skipped < bytes.byteLength ? [{ channel, bytes: bytes.subarray(skipped) }] : [];
    });
  }

  #forgetOldest(): void {
    const oldest = this.#chunks.shift();
    if (!oldest) return;
    this.#startOffset += oldest.bytes.byteLength;
    this.#costBytes -= oldest.bytes.byteLength + chunkCostBytes;
  }
}
