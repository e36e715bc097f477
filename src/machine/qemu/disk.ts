/**
 * The thin disk of a VM is a writable qcow2 layer of its own, over layers that never change, over the shared base
 * image. qcow2 headers hold no paths (the command line names each backing node), so layers can be linked and moved
 * freely.
 */
import { execFile } from "node:child_process";
import { constants, copyFile, mkdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { DomainError, messageOf } from "../../errors.ts";
import { placeLayers } from "../disk-layers.ts";
import type { SnapshotFile, SnapshotManifest } from "../driver.ts";

const run = promisify(execFile);

/** The writable layer's name in a VM's folder, and the top layer's in a snapshot. */
export const diskName = "disk.qcow2";

/**
 * An empty layer of the given virtual size, made once per size and kept in the cache: copying 200 KB is quicker than
 * running `qemu-img`.
 */
export async function emptyLayer(cacheFolder: string, diskMiB: number): Promise<string> {
  const path = join(cacheFolder, `empty-layer-${diskMiB}.qcow2`);
  try {
    await stat(path);
    return path;
  } catch {
    await mkdir(cacheFolder, { recursive: true, mode: 0o700 });
  }
  const unfinished = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  try {
    await run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "compat=1.1", unfinished, `${diskMiB}M`]);
    await rename(unfinished, path);
  } catch (error) {
    await rm(unfinished, { force: true });
    throw new DomainError("machine_failed", `cannot make a disk layer: ${messageOf(error)}`, {}, { cause: error });
  }
  return path;
}

/** Puts the layers of a snapshot's disk into a VM's folder, the writable one as {@link diskName}. @returns as {@link placeLayers} */
export function prepareLayers(
  source: { readonly folder: string; readonly manifest: SnapshotManifest },
  folder: string,
  cacheFolder: string,
): Promise<SnapshotFile[]> {
  const writable = join(folder, diskName);
  return placeLayers(source, folder, {
    copyTop: (path) => copyLayer(path, writable),
    makeEmpty: async () => copyLayer(await emptyLayer(cacheFolder, source.manifest.shape.diskMiB), writable),
  });
}

/** Copies a layer, by reflink where the file system can. */
export async function copyLayer(source: string, target: string): Promise<void> {
  await copyFile(source, target, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
}
