/**
 * Blobs of images in the cache, by their digests. A download goes on where a broken connection left it, is compared with
 * its digest before it has its name, and is shared by all builds that want it. The cache has a size; what was used
 * longest ago goes first.
 */
import { createHash, type Hash } from "node:crypto";
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../../clock.ts";
import { isDomainError, messageOf } from "../../errors.ts";
import { BatchWriter } from "./batch-writer.ts";
import { badImage, unreachable } from "./failures.ts";
import type { Descriptor } from "./manifest.ts";
import type { ImageReference } from "./reference.ts";
import { SharedWork } from "./shared-work.ts";

interface BlobAnswer {
  readonly statusCode: number;
  readonly body: AsyncIterable<unknown>;
}

export interface BlobSource {
  readonly image: Pick<ImageReference, "text">;
  /** Gets the blob from a byte on; the status is 206 when it begins there, and not at the beginning. */
  readonly get: (fromByte: number, signal: AbortSignal) => Promise<BlobAnswer>;
}

const tries = 5;
const firstPauseMs = 500;
const minAgeMs = 30 * 60_000;
const partial = ".partial";

export class BlobCache {
  readonly #folder: string;
  readonly #budgetBytes: number;
  readonly #clock: Clock;
  readonly #count: (bytes: number) => void;
  readonly #downloads = new SharedWork<string>();
  /** Blobs that builds work with now, with the number of them. */
  readonly #held = new Map<string, number>();

  private constructor(folder: string, budgetBytes: number, clock: Clock, count: (bytes: number) => void) {
    this.#folder = folder;
    this.#budgetBytes = budgetBytes;
    this.#clock = clock;
    this.#count = count;
  }

  /**
   * Opens the cache, and removes what a daemon that died left half-done.
   * @param count called with the size of each blob that was not there
   */
  static async open(
    folder: string,
    budgetBytes: number,
    clock: Clock,
    count: (bytes: number) => void = () => {},
  ): Promise<BlobCache> {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    await removeUnfinished(folder);
    return new BlobCache(folder, budgetBytes, clock, count);
  }

  pathOf(digest: string): string {
    return join(this.#folder, digest.replace("sha256:", ""));
  }

  async has({ digest }: Descriptor): Promise<boolean> {
    return (await sizeOf(this.pathOf(digest))) !== undefined;
  }

  /**
   * Sees to it that blobs are there while `work` runs.
   * @throws what {@link fetch} and `work` throw
   */
  async hold<T>(digests: readonly string[], work: () => Promise<T>): Promise<T> {
    for (const digest of digests) this.#held.set(digest, (this.#held.get(digest) ?? 0) + 1);
    try {
      return await work();
    } finally {
      for (const digest of digests) {
        const left = (this.#held.get(digest) ?? 1) - 1;
        if (left > 0) this.#held.set(digest, left);
        else this.#held.delete(digest);
      }
      await this.#keepBudget();
    }
  }

  /**
   * Gets a blob, from the cache or from the registry. Hold it before.
   * @returns its path
   * @throws DomainError `failed_precondition` when it is not what its digest says, or the registry does not give it
   */
  async fetch(descriptor: Descriptor, source: BlobSource, signal: AbortSignal): Promise<string> {
    const path = this.pathOf(descriptor.digest);
    const there = await sizeOf(path);
    if (there === descriptor.size) {
      const now = new Date();
      await utimes(path, now, now);
      return path;
    }
    await this.#downloads.run(descriptor.digest, signal, (shared) => this.#download(descriptor, source, path, shared));
    return path;
  }

  async #download(descriptor: Descriptor, source: BlobSource, path: string, signal: AbortSignal): Promise<void> {
    const unfinished = `${path}.${process.pid}${partial}`;
    await rm(unfinished, { force: true });
    const file = await open(unfinished, "wx", 0o600);
    try {
      const state = { hash: createHash("sha256"), haveBytes: 0 };
      let pauseMs = firstPauseMs;
      for (let attempt = 1; state.haveBytes < descriptor.size || attempt === 1; attempt++) {
        const failure = await this.#receive(descriptor, source, file, state, signal);
        if (!failure) break;
        signal.throwIfAborted();
        if (attempt === tries) throw failure;
        await this.#clock.sleep(pauseMs, signal);
        pauseMs *= 2;
      }
      const digest = `sha256:${state.hash.digest("hex")}`;
      if (digest !== descriptor.digest)
        throw badImage(source.image, `a blob has the digest ${digest}, and not ${descriptor.digest}`);
      await file.sync();
      await rename(unfinished, path);
      this.#count(descriptor.size);
    } finally {
      await file.close();
      await rm(unfinished, { force: true });
    }
  }

  /** One try. @returns why it broke off; nothing when the blob is whole */
  async #receive(
    { size }: Descriptor,
    { image, get }: BlobSource,
    file: FileHandle,
    state: { hash: Hash; haveBytes: number },
    signal: AbortSignal,
  ): Promise<Error | undefined> {
    const writer = new BatchWriter(file);
    try {
      const answer = await get(state.haveBytes, signal);
      // A registry that does not know ranges begins at the beginning.
      if (answer.statusCode !== 206 && state.haveBytes > 0) {
        await file.truncate(0);
        Object.assign(state, { hash: createHash("sha256"), haveBytes: 0 });
      }
      for await (const piece of answer.body) {
        const bytes = piece as Buffer;
        if (state.haveBytes + bytes.length > size) {
          throw badImage(image, `a blob is longer than the ${size} bytes that its manifest says`);
        }
        state.hash.update(bytes);
        await writer.write(bytes, state.haveBytes);
        state.haveBytes += bytes.length;
      }
      await writer.flush();
      return state.haveBytes === size
        ? undefined
        : unreachable(image, `a blob ended after ${state.haveBytes} of ${size} bytes`);
    } catch (error) {
      // The next try goes on behind what has come.
      await writer.flush();
      if (isDomainError(error) && error.details.unreachable !== true) throw error;
      if (isSystemError(error)) throw error;
      return isDomainError(error) ? error : unreachable(image, messageOf(error).slice(0, 200), error);
    }
  }

  /** Removes what was used longest ago until the rest fits. Blobs that a build holds stay. */
  async #keepBudget(): Promise<void> {
    const files = (await readdir(this.#folder)).filter((name) => /^[0-9a-f]{64}$/.test(name));
    const known = await Promise.all(
      files.map(async (name) => {
        const found = await stat(join(this.#folder, name)).catch(() => undefined);
        return { name, sizeBytes: found?.size ?? 0, atMs: found?.mtimeMs ?? 0 };
      }),
    );
    let totalBytes = known.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    for (const { name, sizeBytes, atMs } of known.sort((one, other) => one.atMs - other.atMs)) {
      if (totalBytes <= this.#budgetBytes) return;
      // Another daemon with this cache may work with what was used lately.
      const isYoung = atMs > Date.now() - minAgeMs;
      if (isYoung || this.#held.has(`sha256:${name}`)) continue;
      await rm(join(this.#folder, name), { force: true });
      totalBytes -= sizeBytes;
    }
  }
}

/** Removes files `NAME.PID.partial` of processes that are gone. */
export async function removeUnfinished(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const pid = /\.([0-9]+)\.partial$/.exec(name)?.[1];
    const isOurs = Number(pid) === process.pid;
    if (pid !== undefined && (isOurs || !isAlive(Number(pid)))) await rm(join(folder, name), { force: true });
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  return stat(path).then(
    ({ size }) => size,
    () => undefined,
  );
}

/** A failure of this host's disk, which another try does not mend. */
function isSystemError(error: unknown): boolean {
  const { syscall } = error as { syscall?: unknown };
  return syscall === "write" || syscall === "ftruncate";
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
