/**
 * Writes a stream to a file in large batches, one of them while the next is gathered. A write of any size is a turn of
 * the thread pool, and on a busy host turns are what a download waits for.
 */
import type { FileHandle } from "node:fs/promises";

const batchBytes = 1024 * 1024;

export class BatchWriter {
  readonly #file: FileHandle;
  #pieces: Buffer[] = [];
  #bytes = 0;
  #position = 0;
  #writing: Promise<void> = Promise.resolve();

  constructor(file: FileHandle) {
    this.#file = file;
  }

  /**
   * Takes a piece that follows the one before. Resolves when there is room for more.
   * @throws what a write before threw
   */
  async write(bytes: Buffer, position: number): Promise<void> {
    if (this.#pieces.length === 0) this.#position = position;
    this.#pieces.push(bytes);
    this.#bytes += bytes.length;
    if (this.#bytes >= batchBytes) await this.#begin();
  }

  /** Resolves when everything is written. @throws what a write threw */
  async flush(): Promise<void> {
    await this.#begin();
    await this.#writing;
  }

  async #begin(): Promise<void> {
    await this.#writing;
    const batch = this.#pieces;
    this.#pieces = [];
    this.#bytes = 0;
    this.#writing = writeAll(this.#file, batch, this.#position);
    // The next call throws it.
    this.#writing.catch(() => {});
  }
}

async function writeAll(file: FileHandle, batch: readonly Buffer[], position: number): Promise<void> {
  const sizeBytes = batch.reduce((sum, { length }) => sum + length, 0);
  let { bytesWritten } = await file.writev(batch, position);
  if (bytesWritten === sizeBytes) return;
  const all = Buffer.concat(batch);
  while (bytesWritten < sizeBytes) {
    bytesWritten += (await file.write(all, bytesWritten, sizeBytes - bytesWritten, position + bytesWritten))
      .bytesWritten;
  }
}
