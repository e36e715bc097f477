/**
 * The cache of archives that clients upload for COPY steps, by the hash that the client names. An archive is present
 * whole or not at all, because it is written beside its place and moved when every byte has come. This room calls no
 * other room.
 *
 * Nobody checks that an archive has the hash that its client names: the hash is made of the files in it, in the client's
 * way. So every ledger has a folder of its own, and a client of one daemon decides nothing for the builds of another
 * daemon that shares the cache folder.
 */
import { createHmac, randomUUID, timingSafeEqual } from "node:crypto";
import { createWriteStream } from "node:fs";
import { link, mkdir, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Clock } from "../../clock.ts";
import { DomainError, messageOf } from "../../errors.ts";

/** The form of the hash that names an archive. */
export const filesHashForm = /^[0-9a-f]{64}$/;

/** An archive of this size and its unpacked content already fill a template's disk of 8 GiB. */
export const maxUploadBytes = 4 * 2 ** 30;
/** For all archives together; the least recently used archives go first. */
const maxCacheBytes = 16 * 2 ** 30;
/** An archive stays at least this long after a client was told that it is present. */
const minAgeMs = 3_600_000;
/** A client may take this long for an upload, which is also the clients' own default. */
const linkLifeMs = 3_600_000;
const partial = /\.part$/;

export interface UploadCacheOptions {
  /** The folder of one ledger's archives. */
  readonly folder: string;
  /** The folder that `folder` is in with those of other ledgers; undefined: there are no others. */
  readonly sharedFolder?: string;
  /** The key that signs upload links. */
  readonly secret: string;
  readonly clock: Clock;
}

export class UploadCache {
  readonly #options: UploadCacheOptions;

  /** Takes a folder that exists and has no partial archives; see {@link open}. */
  constructor(options: UploadCacheOptions) {
    this.#options = options;
  }

  /**
   * Opens a ledger's folder in the folder that daemons share: makes it, or removes the partial archives that an earlier
   * daemon left in it. Archives that earlier versions had in the shared folder itself and that this ledger's builds need
   * are linked.
   * @param own names the ledger
   * @param needed hashes of archives
   */
  static async openIn(
    sharedFolder: string,
    { own, needed, ...options }: Omit<UploadCacheOptions, "folder"> & { own: string; needed: readonly string[] },
  ): Promise<UploadCache> {
    const folder = join(sharedFolder, own);
    const cache = await UploadCache.open({ ...options, folder, sharedFolder });
    for (const hash of needed) {
      await link(join(sharedFolder, hash), cache.pathOf(hash)).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT" && error.code !== "EEXIST") throw error;
      });
    }
    return cache;
  }

  /** Makes the folder, or removes the partial archives that an earlier daemon left in it. */
  static async open(options: UploadCacheOptions): Promise<UploadCache> {
    await mkdir(options.folder, { recursive: true, mode: 0o700 });
    const partials = (await readdir(options.folder)).filter((name) => partial.test(name));
    await Promise.all(partials.map((name) => rm(join(options.folder, name), { force: true })));
    return new UploadCache(options);
  }

  /** @throws DomainError `invalid_argument` in E2B's words when `hash` is no files hash */
  pathOf(hash: string): string {
    if (!filesHashForm.test(hash)) throw new DomainError("invalid_argument", "Invalid files hash");
    return join(this.#options.folder, hash);
  }

  /** Whether an archive is present. If it is, it stays for a while. */
  async has(hash: string): Promise<boolean> {
    const now = new Date(this.#options.clock.nowMs());
    try {
      await utimes(this.pathOf(hash), now, now);
      return true;
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return false;
      throw error;
    }
  }

  /** @throws DomainError `failed_precondition` when the files of a COPY were never uploaded */
  async mustHave(hash: string, source: string): Promise<void> {
    if (await this.has(hash)) return;
    throw new DomainError("failed_precondition", `the files of COPY '${source}' were not uploaded (hash ${hash})`);
  }

  /** The token of an upload link, good for this hash and for an hour. */
  token(hash: string): string {
    const expiresAtMs = this.#options.clock.nowMs() + linkLifeMs;
    return `${expiresAtMs}.${this.#sign(hash, expiresAtMs)}`;
  }

  /**
   * @throws DomainError `permission_denied` when the token has another signature, is for another hash, or is too old
   */
  checkToken(hash: string, token: string): void {
    const [expiry = "", signature = ""] = token.split(".");
    const expiresAtMs = /^\d{1,15}$/.test(expiry) ? Number(expiry) : 0;
    const expected = Buffer.from(this.#sign(hash, expiresAtMs));
    const given = Buffer.from(signature);
    const isOurs = given.length === expected.length && timingSafeEqual(given, expected);
    if (!isOurs || expiresAtMs < this.#options.clock.nowMs()) {
      throw new DomainError("permission_denied", "the upload link is not valid or has expired");
    }
  }

  /**
   * Stores an archive of exactly `lengthBytes`.
   * @throws DomainError `invalid_argument` when the archive is too long or does not come whole, `disk_pressure` when
   *   the disk is full; nothing is left then
   */
  async receive(hash: string, body: Readable, lengthBytes: number): Promise<void> {
    const path = this.pathOf(hash);
    if (lengthBytes > maxUploadBytes) {
      const limit = maxUploadBytes / 2 ** 20;
      throw new DomainError("invalid_argument", `the upload is too large: at most ${limit} MiB`);
    }
    await this.#makeRoom(lengthBytes);
    const part = `${path}.${randomUUID()}.part`;
    const file = createWriteStream(part, { flags: "wx", mode: 0o600, highWaterMark: 1024 * 1024 });
    try {
      await pipeline(body, file);
      if (file.bytesWritten !== lengthBytes) throw new Error(`${file.bytesWritten} of ${lengthBytes} bytes came`);
      await rename(part, path);
    } catch (error) {
      await rm(part, { force: true });
      if (error instanceof Error && "code" in error && error.code === "ENOSPC") {
        throw new DomainError("disk_pressure", "no space is left for the upload", {}, { cause: error });
      }
      throw new DomainError("invalid_argument", `the upload is incomplete: ${messageOf(error)}`, {}, { cause: error });
    }
  }

  /**
   * Every archive, with the time at which a client last asked for it: also those of other ledgers and of earlier
   * versions. A caller may remove those only when no other daemon uses the cache folder.
   */
  async list(): Promise<{ readonly name: string; readonly atMs: number }[]> {
    const { folder, sharedFolder } = this.#options;
    const others = sharedFolder === undefined ? [] : await readdir(sharedFolder, { withFileTypes: true });
    const folders = others.filter((entry) => entry.isDirectory()).map(({ name }) => join(sharedFolder ?? "", name));
    const all = sharedFolder === undefined ? [folder] : [sharedFolder, ...folders];
    const found = await Promise.all(
      all.map(async (each) => {
        const names = (await readdir(each)).filter((name) => filesHashForm.test(name));
        return Promise.all(names.map((name) => withTime(join(each, name))));
      }),
    );
    return found.flat();
  }

  /** Removes archives, the least recently used first, until there is room for `bytes` more. */
  async #makeRoom(bytes: number): Promise<void> {
    const { folder, clock } = this.#options;
    const names = (await readdir(folder)).filter((name) => filesHashForm.test(name));
    const archives = await Promise.all(
      names.map(async (name) => {
        const { size, mtimeMs } = await stat(join(folder, name));
        return { name, size, mtimeMs };
      }),
    );
    archives.sort((one, other) => one.mtimeMs - other.mtimeMs);
    let total = archives.reduce((sum, { size }) => sum + size, bytes);
    for (const { name, size, mtimeMs } of archives) {
      if (total <= maxCacheBytes || mtimeMs > clock.nowMs() - minAgeMs) return;
      await rm(join(folder, name), { force: true });
      total -= size;
    }
  }

  #sign(hash: string, expiresAtMs: number): string {
    return createHmac("sha256", this.#options.secret).update(`upload:${hash}:${expiresAtMs}`).digest("base64url");
  }
}

async function withTime(path: string): Promise<{ readonly name: string; readonly atMs: number }> {
  return { name: path, atMs: (await stat(path)).mtimeMs };
}
