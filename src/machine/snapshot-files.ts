/**
 * The folder of a durable snapshot holds `manifest.json` and the files it lists. This file writes it so that a crash
 * leaves either a whole snapshot or none, and tells a whole one from a damaged one. It knows nothing of what the files
 * mean.
 */
import { randomUUID, webcrypto } from "node:crypto";
import { constants, type FileHandle, open, readFile, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { DomainError, isDomainError, messageOf } from "../errors.ts";
import type { SnapshotFile, SnapshotManifest } from "./driver.ts";
import { isSealBroken, sealFile } from "./file-seals.ts";
import { parseManifest } from "./manifest.ts";

const manifestName = "manifest.json";

/** Block of a digest: small enough for bounded memory, large enough for the thread pool to hash without overhead. */
export const blockBytes = 1 << 20;
const maxManifestBytes = 1 << 20;

/** The id of a snapshot, and the folder of that name. */
export interface SnapshotPlace {
  readonly id: string;
  readonly folder: string;
}

/** A place for a snapshot that is still to be made. */
export function newSnapshotPlace(snapshotsFolder: string): SnapshotPlace {
  const id = randomUUID();
  return { id, folder: join(snapshotsFolder, id) };
}

/** Whether a name has the form of an id that {@link newSnapshotPlace} makes. */
export const isSnapshotId = (name: string) => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(name);

/**
 * Reads and checks `manifest.json` of a snapshot folder; nothing else in the folder is touched.
 * @throws DomainError `not_found` without a manifest, `failed_precondition` when it is damaged or of an unknown format
 */
export async function readManifest(folder: string): Promise<SnapshotManifest> {
  const path = join(folder, manifestName);
  const { size } = await stat(path).catch((error: unknown) => {
    const details = { folder, damaged: isMissing(error) };
    throw new DomainError("not_found", `no snapshot in ${folder}: ${messageOf(error)}`, details, { cause: error });
  });
  if (size > maxManifestBytes) throw damaged(folder, `${manifestName} is ${size} bytes long`);
  let json: unknown;
  try {
    json = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw damaged(folder, `${manifestName} cannot be read: ${messageOf(error)}`);
  }
  const parsed = parseManifest(json);
  if ("problem" in parsed) throw damaged(folder, parsed.problem);
  return parsed.manifest;
}

/** Reads the manifest for a restore and checks, without reading the files, that they are all there. */
export async function readSnapshot(folder: string): Promise<SnapshotManifest> {
  const manifest = await readManifest(folder);
  await verifySnapshot(folder, manifest, "cheap");
  return manifest;
}

/**
 * Makes a snapshot folder in one piece: syncs every file in `staging`, writes the manifest last, then renames the
 * folder to `folder` and syncs its parent. Before the rename the folder cannot be mistaken for a snapshot.
 */
export async function publishSnapshot(staging: string, folder: string, manifest: SnapshotManifest): Promise<void> {
  await Promise.all(allFiles(manifest).map(({ name }) => syncPath(join(staging, name))));
  const handle = await open(join(staging, manifestName), "wx", 0o600);
  try {
    await handle.writeFile(`${JSON.stringify(manifest, null, 2)}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await syncPath(staging);
  await rename(staging, folder);
  await syncPath(dirname(folder));
}

/** How a file is read when no request waits for it. */
export interface ReadOptions {
  readonly signal?: AbortSignal;
  /** Awaited before each block. With a pace one block is read at a time. */
  readonly pace?: () => Promise<void>;
}

/** Whether an error of this file says that a snapshot is damaged, and not that the snapshot could not be read. */
export function isDamage(error: unknown): boolean {
  return isDomainError(error) && error.details.damaged === true;
}

/**
 * Compares the folder with its manifest. `cheap` looks at what the file system says of the files, before every restore,
 * and reads only a file that is no longer what it was; `full` reads and digests every byte, at a start and once a day.
 * @param options.read digests of files that were read already, by device and inode: snapshots share files
 * @throws DomainError `failed_precondition` naming the first file that is missing, short or changed
 */
export async function verifySnapshot(
  folder: string,
  manifest: SnapshotManifest,
  depth: "cheap" | "full",
  options: ReadOptions & { readonly read?: Map<string, string> } = {},
): Promise<void> {
  const missing = (path: string) => (error: unknown) => {
    if (!isMissing(error)) throw error;
    throw damaged(folder, `${path} is missing: ${messageOf(error)}`);
  };
  // Where a parent is that is named by its content, the engine finds out.
  await Promise.all(
    manifest.parents.map((parent) => "path" in parent && stat(parent.path).catch(missing(parent.path))),
  );
  await Promise.all(
    allFiles(manifest).map(async ({ name, sizeBytes, sha256 }) => {
      const found = await stat(join(folder, name), { bigint: true }).catch(missing(name));
      if (found.size !== BigInt(sizeBytes)) {
        throw damaged(folder, `${name} has ${found.size} bytes instead of ${sizeBytes}`);
      }
      if (!isSealBroken(found)) return;
      if ((await describeFile(folder, name, options)).sha256 !== sha256) {
        throw damaged(folder, `the content of ${name} has changed`);
      }
      sealFile(found);
    }),
  );
  if (depth === "cheap") return;
  const { read = new Map<string, string>() } = options;
  for (const { name, sha256 } of allFiles(manifest)) {
    const { dev, ino } = await stat(join(folder, name)).catch(missing(name));
    const known = read.get(`${dev}:${ino}`) ?? (await describeFile(folder, name, options)).sha256;
    read.set(`${dev}:${ino}`, known);
    if (known !== sha256) throw damaged(folder, `the content of ${name} has changed`);
  }
}

/** The folder in which the files of a snapshot are written before it is published as `folder`. */
export const stagingOf = (folder: string) => `${folder}.staging`;

/**
 * Removes a snapshot, finished or not. The manifest goes first, so that a half-removed folder is no snapshot. A
 * snapshot that is not there is no error.
 */
export async function removeSnapshot(folder: string): Promise<void> {
  await rm(join(folder, manifestName), { force: true });
  for (const path of [folder, stagingOf(folder)]) await rm(path, { recursive: true, force: true });
}

/**
 * Size and digest of one file. The digest is the SHA-256 of the SHA-256s of its blocks of 1 MiB, not the plain SHA-256
 * of the file, because blocks can be hashed in the thread pool, several at a time and never on the event loop, and the
 * zero blocks of a sparse memory image cost next to nothing.
 * @param dataBlocks runs `[first, count]` of blocks; all other blocks are known to hold zeros and are not read
 */
export async function describeFile(
  folder: string,
  name: string,
  { signal, pace, dataBlocks }: ReadOptions & { readonly dataBlocks?: BlockRuns } = {},
): Promise<SnapshotFile> {
  const handle = await open(join(folder, name), "r");
  try {
    const { size } = await handle.stat();
    const blockCount = Math.ceil(size / blockBytes);
    const digests = Buffer.alloc(blockCount * 32, await zeroBlockDigest);
    // The last block is always read: when it is shorter than the others its zeros have another digest.
    const blocks = blocksOf([...(dataBlocks ?? [[0, blockCount]]), [Math.max(0, blockCount - 1), 1]], blockCount);
    const worker = async () => {
      const buffer = Buffer.allocUnsafe(Math.min(blockBytes, size));
      for (const block of blocks) {
        signal?.throwIfAborted();
        await pace?.();
        const length = await readFully(
          handle,
          buffer,
          block * blockBytes,
          Math.min(blockBytes, size - block * blockBytes),
        );
        (await digestBlock(buffer.subarray(0, length))).copy(digests, block * 32);
      }
    };
    await Promise.all(pace || blockCount < 2 ? [worker()] : [worker(), worker()]);
    return { name, sizeBytes: size, sha256: (await sha256(digests)).toString("hex") };
  } finally {
    await handle.close();
  }
}

/** As {@link describeFile}, and the file is written out meanwhile: a snapshot is not whole before both are done. */
export async function describeWritten(folder: string, name: string, options: { readonly dataBlocks?: BlockRuns } = {}) {
  const [described] = await Promise.all([describeFile(folder, name, options), syncPath(join(folder, name))]);
  return described;
}

/** Runs of blocks of {@link blockBytes}: the number of the first one, and the count. */
export type BlockRuns = readonly (readonly [number, number])[];

/** Every block of the runs that the file has. Several workers take from one generator. */
function* blocksOf(runs: BlockRuns, blockCount: number): Generator<number, undefined> {
  for (const [first, count] of runs) {
    for (let block = first; block < Math.min(first + count, blockCount); block++) yield block;
  }
}

/** Blocks that may be on their way to the disk and the digest at once. */
const blocksUnderWay = 4;

/**
 * Writes a new file and describes it on the way, so that it need not be read again.
 * @param blocks the content in blocks of {@link blockBytes}, each in a buffer of its own; only the last may be shorter
 */
export async function writeDescribed(
  { folder, name }: { readonly folder: string; readonly name: string },
  blocks: AsyncIterable<Buffer>,
): Promise<SnapshotFile> {
  const handle = await open(join(folder, name), "wx", 0o600);
  const digests: Promise<Buffer>[] = [];
  const underWay: Promise<unknown>[] = [];
  let sizeBytes = 0;
  try {
    for await (const block of blocks) {
      const digest = digestBlock(block);
      digests.push(digest);
      underWay.push(Promise.all([digest, handle.write(block, 0, block.length, sizeBytes)]));
      sizeBytes += block.length;
      if (underWay.length >= blocksUnderWay) await underWay.shift();
    }
    await Promise.all(underWay);
    const sha = await sha256(Buffer.concat(await Promise.all(digests)));
    return { name, sizeBytes, sha256: sha.toString("hex") };
  } finally {
    await Promise.allSettled(underWay);
    await handle.close();
  }
}

const zeroBlock = Buffer.alloc(blockBytes);
const zeroBlockDigest = sha256(zeroBlock);

async function digestBlock(block: Buffer): Promise<Buffer> {
  return block.equals(zeroBlock) ? zeroBlockDigest : sha256(block);
}

async function sha256(bytes: Buffer): Promise<Buffer> {
  return Buffer.from(await webcrypto.subtle.digest("SHA-256", bytes));
}

async function readFully(handle: FileHandle, buffer: Buffer, position: number, length: number): Promise<number> {
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(buffer, done, length - done, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}

async function syncPath(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

const allFiles = ({ files, ...manifest }: SnapshotManifest): SnapshotFile[] => [
  ...(files.memory ? [files.memory, files.devices] : []),
  files.disk,
  ...(manifest.memoryChanges ? [manifest.memoryChanges] : []),
  ...(manifest.moreFiles ?? []),
  ...manifest.lowerLayers,
];

function damaged(folder: string, problem: string): DomainError {
  return new DomainError("failed_precondition", `snapshot ${folder} is damaged: ${problem}`, { folder, damaged: true });
}

const isMissing = (error: unknown) => ["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "");
