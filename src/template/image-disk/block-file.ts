/**
 * The disk's file while it is written: blocks are given out one after the other, and content goes to its final place as
 * it arrives. Nothing is written twice. It runs in a process of its own, so it may block.
 */
import { fsyncSync, readSync, writeSync } from "node:fs";
import { DomainError } from "../../errors.ts";
import type { BlockRun } from "./tree.ts";

export const blockBytes = 4096;
const bufferBytes = 1024 * 1024;
const emptyBuffer = Buffer.alloc(bufferBytes);
/** How much is written between two looks at the host's free disk. */
const lookBytes = 64 * 2 ** 20;

export class BlockFile {
  readonly #fd: number;
  readonly #maxBlocks: number;
  readonly #buffer = Buffer.alloc(bufferBytes);
  /** Bytes in the buffer; they belong at `#bufferBlock`. */
  #filled = 0;
  #bufferBlock: number;
  #nextBlock: number;
  #file: { readonly firstBlock: number; sizeBytes: number } | undefined;
  readonly #wrote: () => void;
  #unseenBytes = 0;

  /** @param wrote called now and then, when a good deal more has been written */
  constructor(fd: number, firstBlock: number, maxBlocks: number, wrote: () => void = () => {}) {
    this.#fd = fd;
    this.#maxBlocks = maxBlocks;
    this.#wrote = wrote;
    this.#nextBlock = firstBlock;
    this.#bufferBlock = firstBlock;
  }

  /** The first block that nobody has. */
  get nextBlock(): number {
    return this.#nextBlock;
  }

  /** Begins a file, whose content is one run. One file is written at a time. */
  begin(): void {
    this.#file = { firstBlock: this.#nextBlock, sizeBytes: 0 };
  }

  /** @throws DomainError `failed_precondition` when the disk would become larger than it may */
  append(bytes: Buffer): void {
    if (!this.#file) throw new Error("no file was begun");
    this.#file.sizeBytes += bytes.length;
    this.#nextBlock = this.#file.firstBlock + blocksFor(this.#file.sizeBytes);
    this.#checkSize();
    this.#put(bytes);
  }

  /** @returns the blocks of the file; none for an empty one */
  end(): readonly BlockRun[] {
    const file = this.#file;
    if (!file) throw new Error("no file was begun");
    this.#file = undefined;
    const blocks = blocksFor(file.sizeBytes);
    this.#put(Buffer.alloc(blocks * blockBytes - file.sizeBytes));
    return blocks === 0 ? [] : [{ firstBlock: file.firstBlock, blocks }];
  }

  /** Writes a whole file. */
  store(bytes: Buffer): readonly BlockRun[] {
    this.begin();
    this.append(bytes);
    return this.end();
  }

  /** Gives out blocks that stay as they are: holes, which read as zeros. */
  reserve(blocks: number): number {
    const first = this.#nextBlock;
    this.#flush();
    this.#nextBlock += blocks;
    this.#bufferBlock = this.#nextBlock;
    this.#checkSize();
    return first;
  }

  /** Writes into blocks that were given out. */
  writeAt(block: number, bytes: Buffer, offset = 0): void {
    writeAll(this.#fd, bytes, block * blockBytes + offset);
  }

  /** Reads the content of a file that was stored. */
  read(runs: readonly BlockRun[], sizeBytes: number): Buffer {
    this.#flush();
    const content = Buffer.alloc(sizeBytes);
    let at = 0;
    for (const { firstBlock, blocks } of runs) {
      const wanted = Math.min(blocks * blockBytes, sizeBytes - at);
      readSync(this.#fd, content, at, wanted, firstBlock * blockBytes);
      at += wanted;
    }
    return content;
  }

  /** Puts everything on the host's disk. */
  sync(): void {
    this.#flush();
    fsyncSync(this.#fd);
  }

  #put(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const taken = Math.min(bytes.length - at, bufferBytes - this.#filled);
      bytes.copy(this.#buffer, this.#filled, at, at + taken);
      this.#filled += taken;
      at += taken;
      if (this.#filled === bufferBytes) this.#flush();
    }
  }

  #flush(): void {
    if (this.#filled === 0) return;
    const bytes = this.#buffer.subarray(0, this.#filled);
    // The file is new, so zeros are there already, and take no room.
    if (!bytes.equals(emptyBuffer.subarray(0, bytes.length))) {
      writeAll(this.#fd, bytes, this.#bufferBlock * blockBytes);
      this.#unseenBytes += bytes.length;
    }
    if (this.#unseenBytes >= lookBytes) {
      this.#unseenBytes = 0;
      this.#wrote();
    }
    this.#bufferBlock += this.#filled / blockBytes;
    this.#filled = 0;
  }

  #checkSize(): void {
    if (this.#nextBlock <= this.#maxBlocks) return;
    const message = `the image is larger than ${Math.floor((this.#maxBlocks * blockBytes) / 2 ** 30)} GiB unpacked`;
    throw new DomainError("failed_precondition", message);
  }
}

const blocksFor = (sizeBytes: number) => Math.ceil(sizeBytes / blockBytes);

function writeAll(fd: number, bytes: Buffer, position: number): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, position + at);
}
