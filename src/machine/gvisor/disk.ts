/**
 * The disk of a gVisor machine is an overlay of the base disk's files, of layers that never change, and of one layer
 * that is written. A layer is a raw image with a file system of the disk's size, so that a guest can write no more than
 * that. In a snapshot it is packed, which is a tar archive of the sparse image, or the image itself (`disk-save.ts`). A
 * machine's launcher unpacks the layer that is written, and packs it.
 */
import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdir, open, readdir, rename, rm, stat, truncate, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { DomainError, messageOf } from "../../errors.ts";
import { exists } from "../build-tool.ts";
import { placeLayers } from "../disk-layers.ts";
import type { SnapshotFile, SnapshotManifest } from "../driver.ts";

const run = promisify(execFile);

/** The image of the writable layer in a machine's folder, and the member of a packed layer. */
export const diskName = "disk.ext4";
/** Ends the name of a layer in a snapshot that is not packed. */
const imageEnding = ".ext4";
/** The packed writable layer in a snapshot. */
export const packedName = "disk.tar";

/** How old an unpacked layer must be to go. */
const unusedForMs = 86_400_000;

/** Runs a program of the host. @throws DomainError `machine_failed` with what it said */
async function runTool(command: string, args: readonly string[], what: string): Promise<void> {
  try {
    await run(command, args, { env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LANG: "C" } });
  } catch (error) {
    throw new DomainError("machine_failed", `cannot ${what}: ${messageOf(error).slice(-500)}`, {}, { cause: error });
  }
}

/** An empty layer of the size, made once and kept in the cache. */
export async function emptyLayer(cacheFolder: string, diskMiB: number): Promise<string> {
  const path = join(cacheFolder, `empty-layer-${diskMiB}.ext4`);
  if (await exists(path)) return path;
  await mkdir(cacheFolder, { recursive: true, mode: 0o700 });
  const unfinished = `${path}.${randomUUID()}`;
  try {
    await writeFile(unfinished, "", { mode: 0o600 });
    await truncate(unfinished, diskMiB * 2 ** 20);
    // A layer is thrown away or saved as a whole, so a journal would be work for nothing.
    const features = [
      "-O",
      "^has_journal,^resize_inode,sparse_super2",
      "-E",
      "nodiscard,lazy_itable_init=1",
      "-m",
      "0",
    ];
    await runTool("mke2fs", ["-q", "-F", "-t", "ext4", ...features, unfinished], "make a disk layer");
    await rename(unfinished, path);
  } finally {
    await rm(unfinished, { force: true });
  }
  return path;
}

export async function copyLayer(source: string, target: string): Promise<void> {
  await runTool("cp", ["--reflink=auto", "--sparse=always", "--", source, target], "copy a disk layer");
}

/** Packs the image {@link diskName} of a folder as {@link packedName}, where the launcher of a machine cannot. */
export async function packLayer(folder: string): Promise<void> {
  const form = ["--sparse", "--format=gnu", "--directory", folder];
  await runTool("tar", ["--create", ...form, "--file", join(folder, packedName), diskName], "save the disk");
}

async function unpackLayer(packed: string, folder: string): Promise<void> {
  await runTool("tar", ["--extract", "--file", packed, "--directory", folder, diskName], "unpack a disk layer");
}

const headerBytes = 512;

/** Whether an archive has the form that a launcher reads. A `tar` of another host may have written another one. */
async function isOfGnu(packed: string): Promise<boolean> {
  const file = await open(packed);
  try {
    const { buffer } = await file.read(Buffer.alloc(headerBytes), 0, headerBytes, 0);
    return /^[S0]$/.test(buffer.toString("latin1", 156, 157)) && buffer.toString("latin1", 257, 265) === "ustar  \0";
  } finally {
    await file.close();
  }
}

export interface PreparedDisk {
  /** In the machine's folder, top first: what a snapshot of it needs. */
  readonly lowerLayers: readonly SnapshotFile[];
  /** The images of these layers, top first. */
  readonly images: readonly string[];
  /** What the written layer is unpacked from; undefined: it is in the machine's folder. */
  readonly packed?: string;
}

/** Puts the disk of a snapshot into a machine's folder. */
export async function prepareDisk(
  source: { readonly folder: string; readonly manifest: SnapshotManifest },
  folder: string,
  cacheFolder: string,
): Promise<PreparedDisk> {
  let packed: string | undefined;
  const lowerLayers = await placeLayers(source, folder, {
    copyTop: async (layer) => {
      if (layer.endsWith(imageEnding)) await copyLayer(layer, join(folder, diskName));
      else if (await isOfGnu(layer)) packed = layer;
      else await unpackLayer(layer, folder);
    },
    makeEmpty: async () => {
      await copyLayer(await emptyLayer(cacheFolder, source.manifest.shape.diskMiB), join(folder, diskName));
    },
  });
  const images = await unpackAll(folder, lowerLayers, cacheFolder);
  return { lowerLayers, images, ...(packed !== undefined && { packed }) };
}

/** The images of layers; one that is packed is unpacked once into the cache. */
async function unpackAll(folder: string, layers: readonly SnapshotFile[], cacheFolder: string): Promise<string[]> {
  return Promise.all(
    layers.map(({ name, sha256 }) => {
      const path = join(folder, name);
      return name.endsWith(imageEnding) ? path : unpackOnce(path, sha256, cacheFolder);
    }),
  );
}

const unpacking = new Map<string, Promise<string>>();

function unpackOnce(packed: string, sha256: string, cacheFolder: string): Promise<string> {
  const path = join(layersFolder(cacheFolder), `${sha256}.ext4`);
  const work = unpacking.get(path) ?? unpackTo(packed, path).finally(() => unpacking.delete(path));
  unpacking.set(path, work);
  return work;
}

async function unpackTo(packed: string, path: string): Promise<string> {
  if (await exists(path)) return path;
  const unfinished = `${path}.${randomUUID()}.d`;
  await mkdir(unfinished, { recursive: true, mode: 0o700 });
  try {
    await unpackLayer(packed, unfinished);
    await rename(join(unfinished, diskName), path);
  } finally {
    await rm(unfinished, { recursive: true, force: true });
  }
  return path;
}

const layersFolder = (cacheFolder: string) => join(cacheFolder, "layers");

/**
 * Removes unpacked layers that no running machine stands on. They are unpacked again when a snapshot needs them.
 * @param needed digests
 */
export async function removeUnusedLayers(cacheFolder: string, needed: ReadonlySet<string>): Promise<void> {
  const folder = layersFolder(cacheFolder);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const unused = (await readdir(folder)).filter((name) => !needed.has(basename(name, ".ext4")));
  await Promise.all(
    unused.map(async (name) => {
      const path = join(folder, name);
      const { ctimeMs } = await stat(path);
      // Another daemon with this cache may be about to mount it.
      if (Date.now() - ctimeMs > unusedForMs) await rm(path, { recursive: true, force: true });
    }),
  );
}
