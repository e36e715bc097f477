/**
 * The newest output of a process, so that a reader that lost its connection can go on where it was. Bytes of all
 * channels count together, from the first that the tape saw; what is older than {@link TAPE_BYTES} is forgotten.
 */
import { randomUUID } from "node:crypto";
import { DomainError } from "../../errors.ts";
import type { OutputChunk } from "../../guest/agent.ts";

/** What a tape keeps at most. */
export const TAPE_BYTES = 256 * 1024;
/** What a chunk costs besides its bytes, so that a flood of tiny ones is bounded too. */
const CHUNK_COST_BYTES = 128;

export class OutputTape {
  /** Offsets mean something on this tape only: a daemon that starts anew, or a reused pid, has another one. */
  readonly id = randomUUID();
  /** Oldest first. */
  #chunks: OutputChunk[] = [];
  #costBytes = 0;
  #startOffset = 0;
  #endOffset = 0;

  /** Of the oldest byte that is kept. */
  get startOffset(): number {
    return this.#startOffset;
  }

  /** Of the byte that comes next. */
  get endOffset(): number {
    return this.#endOffset;
  }

  append({ channel, bytes }: OutputChunk): void {
    // Copied: the bytes may be a view into a buffer that is much larger.
    this.#chunks.push({ channel, bytes: Buffer.from(bytes) });
    this.#endOffset += bytes.byteLength;
    this.#costBytes += bytes.byteLength + CHUNK_COST_BYTES;
    while (this.#costBytes > TAPE_BYTES) this.#forgetOldest();
  }

  /** What is kept from `offset` on. @throws invalid_argument of an offset that the process has not got to. */
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
    this.#costBytes -= oldest.bytes.byteLength + CHUNK_COST_BYTES;
  }
}
