/**
 * The images that machines stand on and that lie outside of their folders: base disks, kernels. A snapshot names them
 * by their content, so that cache and state folder can be moved, and an image that was made anew is not taken for the
 * old one. The index keeps the digest of each image by its path, and holds while the image is as it was.
 */
import { createHash } from "node:crypto";
import type { Dirent } from "node:fs";
import { mkdir, readdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { z } from "zod";
import { DomainError, messageOf } from "../errors.ts";
import type { SnapshotFile, SnapshotParent } from "./driver.ts";
import type { FindData } from "./file-data.ts";
import { describeFile } from "./snapshot-files.ts";

const entrySchema = z.object({
  path: z.string().startsWith("/"),
  /** Of the file when it was read: device, inode, size, times of change. */
  state: z.string(),
  sizeBytes: z.number().int().nonnegative(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});
type Entry = z.infer<typeof entrySchema>;

/** How deep an image may lie below the folder of the assets. */
const maxDepth = 3;

export class Images {
  readonly #indexFolder: string;
  /** Images that the index does not have are looked for here. */
  readonly #imagesFolder: string;
  readonly #byPath = new Map<string, Entry>();
  /** Images that are being read, by path. */
  readonly #reading = new Map<string, Promise<Entry>>();

  readonly #findData: FindData | undefined;

  private constructor(imagesFolder: string, indexFolder: string, findData: FindData | undefined) {
    this.#imagesFolder = imagesFolder;
    this.#indexFolder = indexFolder;
    this.#findData = findData;
  }

  /**
   * @param cacheFolder has the images that set-up made
   * @param findData undefined: holes of images are read, too, which takes seconds for a disk
   */
  static async open(cacheFolder: string, indexFolder: string, findData?: FindData): Promise<Images> {
    const images = new Images(join(cacheFolder, "assets"), indexFolder, findData);
    await mkdir(indexFolder, { recursive: true, mode: 0o700 });
    for (const name of await readdir(indexFolder)) {
      const entry = name.endsWith(".json") ? await readEntry(join(indexFolder, name)) : undefined;
      if (entry) images.#byPath.set(entry.path, entry);
    }
    return images;
  }

  /**
   * Names an image by its content. The first time, all of it is read: seconds for a base disk.
   * @throws DomainError `not_found` without the file
   */
  async identify(path: string): Promise<SnapshotFile> {
    const { sizeBytes, sha256 } = await this.#read(resolve(path));
    return { name: basename(path), sizeBytes, sha256 };
  }

  /** Begins {@link identify}, for a caller who will ask later and be told then what went wrong. */
  prepare(path: string): void {
    this.#read(resolve(path)).catch(() => {});
  }

  /**
   * Finds an image on this host.
   * @throws DomainError `failed_precondition` naming the image when it is nowhere
   */
  async find(image: SnapshotFile): Promise<string> {
    const known = [...this.#byPath.values()].filter(({ sha256 }) => sha256 === image.sha256);
    for (const entry of known) if ((await stateOf(entry.path)) === entry.state) return entry.path;
    for (const path of await this.#candidates(this.#imagesFolder, image.sizeBytes)) {
      if ((await this.#read(path)).sha256 === image.sha256) return path;
    }
    const problem =
      `the image ${image.name} with the digest ${image.sha256.slice(0, 16)}… is not in ${this.#imagesFolder}, and ` +
      "the snapshot stands on it: put the file back";
    throw new DomainError("failed_precondition", problem, { sha256: image.sha256 });
  }

  /** The paths of what a snapshot stands on. An image that is nowhere is left out. */
  async pathsOf(parents: readonly SnapshotParent[]): Promise<string[]> {
    const found = await Promise.all(
      parents.map(async (parent) => {
        if ("path" in parent) return [parent.path];
        return this.find(parent).then(
          (path) => [path],
          () => [],
        );
      }),
    );
    return found.flat();
  }

  async #read(path: string): Promise<Entry> {
    const state = await stateOf(path);
    if (state === undefined) throw new DomainError("not_found", `there is no image ${path}`);
    const known = this.#byPath.get(path);
    if (known?.state === state) return known;
    const underWay = this.#reading.get(path);
    if (underWay) return underWay;
    const reading = this.#digest(path, state).finally(() => this.#reading.delete(path));
    this.#reading.set(path, reading);
    return reading;
  }

  async #digest(path: string, state: string): Promise<Entry> {
    const known = this.#findData && { dataBlocks: await this.#findData(path) };
    const { sizeBytes, sha256 } = await describeFile(dirname(path), basename(path), known);
    if ((await stateOf(path)) !== state) throw new DomainError("not_ready", `the image ${path} changes: try again`);
    const entry = { path, state, sizeBytes, sha256 };
    this.#byPath.set(path, entry);
    const name = createHash("sha256").update(path).digest("hex").slice(0, 16);
    const file = join(this.#indexFolder, `${name}.json`);
    await writeFile(`${file}.${process.pid}`, JSON.stringify(entry), { mode: 0o600 });
    await rename(`${file}.${process.pid}`, file);
    return entry;
  }

  /** Files of this size below a folder. */
  async #candidates(folder: string, sizeBytes: number, depth = 1): Promise<string[]> {
    const found = await Promise.all(
      (await entriesOf(folder)).map(async (entry) => {
        const path = join(folder, entry.name);
        if (entry.isDirectory()) return depth < maxDepth ? this.#candidates(path, sizeBytes, depth + 1) : [];
        if (!entry.isFile()) return [];
        const size = await stat(path).then(
          (found) => found.size,
          () => undefined, // it was removed meanwhile
        );
        return size === sizeBytes ? [path] : [];
      }),
    );
    return found.flat();
  }
}

/** What changes when a file's content does; undefined without the file. */
async function stateOf(path: string): Promise<string | undefined> {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
    return [dev, ino, size, mtimeNs, ctimeNs].join("-");
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw new DomainError("failed_precondition", `the image ${path}: ${messageOf(error)}`, {}, { cause: error });
  }
}

async function readEntry(path: string): Promise<Entry | undefined> {
  try {
    return entrySchema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch {
    // Half-written, or of another version: the image is read anew, once.
    return undefined;
  }
}

async function entriesOf(folder: string): Promise<Dirent[]> {
  return readdir(folder, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
}
