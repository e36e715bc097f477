/**
 * The disks of images, in the cache by the digests of their manifests: two builds from one image share its disk, and
 * pull it once. This room puts the registry and the image disk together; it knows nothing of builds and machines.
 */
import { createHash, randomUUID } from "node:crypto";
import { chmod, mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { DomainError, isDomainError } from "../../errors.ts";
import type { BuildLogLevel } from "../../ledger/template-builds.ts";
import type { ReachStep } from "../../lifecycle-steps.ts";
import type { Logger } from "../../log.ts";
import type { Metrics } from "../../metrics.ts";
import type { GuestPrograms } from "../assets/guest-programs.ts";
import type { DiskResult, makeDiskInProcess } from "../image-disk/process.ts";
import { wholePath } from "../login-path.ts";
import { type BlobCache, removeUnfinished } from "../registry/blobs.ts";
import type { RegistryClient, ResolvedImage } from "../registry/client.ts";
import type { RegistryLogin } from "../registry/credentials.ts";
import type { Architecture, ImageConfig } from "../registry/manifest.ts";
import { parseReference } from "../registry/reference.ts";
import { SharedWork } from "../registry/shared-work.ts";
import { fetchLocal, parseLocal, resolveLocal } from "./local.ts";

/** To be raised when what is put on a disk changes. */
const recipe = 2;
const limits = { maxEntries: 2_000_000, maxDiskMiB: 64 * 1024 };
const minDiskMiB = 8192;
const minFreeMiB = 2048;
/** How much larger an image is unpacked, before that is known. */
const expectedRatio = 4;

/** What is known of a disk, in a file beside it. */
const recordSchema = z.object({
  /** References, as clients wrote them, that led to it. */
  references: z.array(z.string()),
  digest: z.string(),
  isPublic: z.boolean(),
  diskMiB: z.number(),
  envs: z.record(z.string(), z.string()),
  unused: z.array(z.string()),
  filled: z.array(z.string()),
});
type DiskRecord = z.infer<typeof recordSchema>;

export interface ImageDisk {
  readonly path: string;
  /** Of the image's manifest. */
  readonly digest: string;
  readonly diskMiB: number;
  readonly envs: Readonly<Record<string, string>>;
}

export interface ImageOrder {
  /** As the client wrote it. */
  readonly reference: string;
  readonly login: RegistryLogin | undefined;
}

export interface ImageStoreDependencies {
  /** Folder of the disks. */
  readonly folder: string;
  readonly client: RegistryClient;
  readonly blobs: BlobCache;
  readonly architecture: Architecture;
  /** Whether references may name files of this host. */
  readonly allowLocal: boolean;
  readonly programs: GuestPrograms | undefined;
  readonly makeDisk: typeof makeDiskInProcess;
  readonly log: Logger;
  readonly metrics: Pick<Metrics, "images">;
  readonly reach: ReachStep;
  /** @throws DomainError `disk_pressure` when that much more cannot be written. */
  readonly admitBytes: (what: string, bytes: number) => Promise<void>;
}

/** An image of which all is known but its configuration. */
type KnownImage = Pick<ResolvedImage, "digest" | "manifest" | "isPublic"> & {
  readonly reference: { readonly text: string };
};
type Fetch = (signal: AbortSignal) => Promise<ImageConfig>;
type LocalLocation = NonNullable<ReturnType<typeof parseLocal>>;
type Say = (level: BuildLogLevel, line: string) => void;

export class ImageStore {
  readonly #deps: ImageStoreDependencies;
  readonly #making = new SharedWork<string, DiskRecord>();

  private constructor(deps: ImageStoreDependencies) {
    this.#deps = deps;
  }

  /** Opens the store, and removes what a daemon that died left half-done. */
  static async open(deps: ImageStoreDependencies): Promise<ImageStore> {
    // Engines of other users are given a file, not its path; other people of the host may not look into images.
    await mkdir(deps.folder, { recursive: true, mode: 0o700 });
    await chmod(deps.folder, 0o700);
    await removeUnfinished(deps.folder);
    return new ImageStore(deps);
  }

  /**
   * The disk of an image, pulled and written if it is not there yet.
   * @param say the log of the build that wants it
   * @throws DomainError `invalid_argument` (reference), `failed_precondition` in E2B's words, `unsupported`,
   *   `disk_pressure`; the signal's reason
   */
  async prepare({ reference: text, login }: ImageOrder, say: Say, signal: AbortSignal): Promise<ImageDisk> {
    const local = parseLocal(text);
    if (local) return this.#prepareLocal(text, local, say, signal);
    const { client } = this.#deps;
    const reference = parseReference(text);
    say("debug", "Requesting Docker Image");
    let image: ResolvedImage;
    try {
      image = await client.resolve(reference, login, signal);
    } catch (error) {
      const known = isUnreachable(error) && !login ? await this.#findByReference(text) : undefined;
      if (!known) throw error;
      say("warn", `the registry cannot be reached: using ${known.digest}, which '${text}' stood for before`);
      return this.#describe(known, say);
    }
    this.#deps.reach("image.resolved");
    const fetch = (shared: AbortSignal) => client.fetch(image, shared);
    const record = await this.#findOrMake(image, fetch, say, signal);
    await this.#remember(record, text);
    return this.#describe(record, say);
  }

  async #prepareLocal(text: string, location: LocalLocation, say: Say, signal: AbortSignal): Promise<ImageDisk> {
    const { allowLocal, blobs, architecture } = this.#deps;
    if (!allowLocal) {
      const message = `image '${text}' is a file of the daemon's host, which --allow-local-images yes has to allow`;
      throw new DomainError("permission_denied", message, { option: "--allow-local-images" });
    }
    const image = await resolveLocal(text, location, architecture);
    this.#deps.reach("image.resolved");
    const fetch = (shared: AbortSignal) => fetchLocal(image, { blobs, architecture }, shared);
    const record = await this.#findOrMake({ ...image, isPublic: false }, fetch, say, signal);
    await this.#remember(record, text);
    return this.#describe(record, say);
  }

  /** The paths of disks and records that belong to a digest. */
  #paths(digest: string): { readonly disk: string; readonly record: string } {
    const key = createHash("sha256")
      .update(JSON.stringify([recipe, digest, this.#deps.programs?.id]))
      .digest("hex");
    const base = join(this.#deps.folder, `disk-${key.slice(0, 32)}`);
    return { disk: `${base}.ext4`, record: `${base}.json` };
  }

  async #describe(record: DiskRecord, say: Say): Promise<ImageDisk> {
    const { disk } = this.#paths(record.digest);
    if (record.unused.length > 0) {
      const use = "set them with setUser, setWorkdir or setStartCmd";
      say("info", `image config: ${record.unused.join(", ")} are not used; ${use}`);
    }
    if (record.filled.length > 0) say("info", `the image lacks, and was given: ${record.filled.join(", ")}`);
    const { digest, diskMiB, envs } = record;
    // An image need not have a profile, which would read ours.
    const path = envs.PATH === undefined ? {} : { PATH: wholePath(envs.PATH) };
    return { path: disk, digest, diskMiB, envs: { ...envs, ...path } };
  }

  async #findOrMake(image: KnownImage, fetch: Fetch, say: Say, signal: AbortSignal): Promise<DiskRecord> {
    const found = await this.#find(image.digest);
    this.#deps.metrics.images.inc({ result: found ? "cached" : "pulled" });
    return found ?? this.#make(image, fetch, say, signal);
  }

  async #make(image: KnownImage, fetch: Fetch, say: Say, signal: AbortSignal): Promise<DiskRecord> {
    const sizeBytes = image.manifest.layers.reduce((sum, { size }) => sum + size, 0);
    say("info", `Base Docker image size: ${Math.ceil(sizeBytes / 1e6)} MB`);
    say("info", "Creating file system and pulling Docker image");
    const digests = [image.manifest.config, ...image.manifest.layers].map(({ digest }) => digest);
    return this.#making.run(image.digest, signal, (shared) =>
      this.#deps.blobs.hold(digests, () => this.#pullAndWrite(image, fetch, sizeBytes, say, shared)),
    );
  }

  async #pullAndWrite(
    image: KnownImage,
    fetch: Fetch,
    sizeBytes: number,
    say: Say,
    signal: AbortSignal,
  ): Promise<DiskRecord> {
    const { blobs, programs, makeDisk, reach, admitBytes } = this.#deps;
    const { reference, digest, manifest, isPublic } = image;
    await admitBytes(`pull ${reference.text}`, sizeBytes * (1 + expectedRatio));
    const config = await fetch(signal);
    reach("image.blob");
    const paths = this.#paths(digest);
    const target = `${paths.disk}.${process.pid}.partial`;
    await rm(target, { force: true });
    const layers = manifest.layers.map((layer, index) => ({
      path: blobs.pathOf(layer.digest),
      sizeBytes: layer.size,
      diffId: config.diffIds[index] ?? "",
    }));
    const files = programs && { bash: programs.bash, busybox: programs.busybox, applets: [...programs.applets] };
    const made = await makeDisk(
      { layers, target, envs: { ...config.envs }, programs: files, limits, minDiskMiB, minFreeMiB },
      (line) => say("info", line),
      signal,
      // What an image unpacks to is known when it is unpacked.
      () => admitBytes(`write the disk of ${reference.text}`, 0),
    );
    const record = recordOf(image, made, config.envs, config.unused, isPublic);
    await chmod(target, 0o444);
    await writeRecord(paths.record, record);
    await rename(target, paths.disk);
    reach("image.disk");
    return record;
  }

  async #find(digest: string): Promise<DiskRecord | undefined> {
    const { disk, record } = this.#paths(digest);
    const isThere = await stat(disk).then(
      () => true,
      () => false,
    );
    return isThere ? readRecord(record) : undefined;
  }

  /** The newest disk of a public image that a reference led to. */
  async #findByReference(text: string): Promise<DiskRecord | undefined> {
    const { folder } = this.#deps;
    const names = (await readdir(folder)).filter((name) => name.endsWith(".json"));
    const found = await Promise.all(
      names.map(async (name) => {
        const record = await readRecord(join(folder, name));
        const { mtimeMs } = await stat(join(folder, name)).catch(() => ({ mtimeMs: 0 }));
        return record?.isPublic && record.references.includes(text) ? [{ record, mtimeMs }] : [];
      }),
    );
    const newest = found.flat().sort((one, other) => other.mtimeMs - one.mtimeMs)[0]?.record;
    return newest && this.#find(newest.digest);
  }

  /** Also tells the collector of artifacts that the disk is in use. */
  async #remember(record: DiskRecord, text: string): Promise<void> {
    const references = [...new Set([...record.references, text])].slice(-20);
    await writeRecord(this.#paths(record.digest).record, { ...record, references });
  }
}

function recordOf(
  { digest, reference }: KnownImage,
  { diskMiB, filled }: DiskResult,
  envs: Readonly<Record<string, string>>,
  unused: readonly string[],
  isPublic: boolean,
): DiskRecord {
  return {
    references: [reference.text],
    digest,
    isPublic,
    diskMiB,
    envs: { ...envs },
    unused: [...unused],
    filled: [...filled],
  };
}

async function readRecord(path: string): Promise<DiskRecord | undefined> {
  try {
    return recordSchema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch {
    // Half-written, gone, or of another version: the disk is made anew.
    return undefined;
  }
}

async function writeRecord(path: string, record: DiskRecord): Promise<void> {
  // Two builds may remember the same disk at once.
  const unfinished = `${path}.${randomUUID()}.${process.pid}.partial`;
  await writeFile(unfinished, JSON.stringify(record), { mode: 0o600 });
  await rename(unfinished, path);
}

const isUnreachable = (error: unknown) => isDomainError(error) && (error as DomainError).details.unreachable === true;
