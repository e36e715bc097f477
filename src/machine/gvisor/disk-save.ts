/**
 * The save of a disk's written layer. A small one is packed, because each machine of the snapshot gets a copy of it. Of
 * a larger one the snapshot has the image itself: a copy, or for a machine that ends next a link, which costs nothing.
 * What the file system still writes when it is unmounted must not get into that link, so the loop device shows next to
 * nothing of the file from the save on.
 */
import { execFile } from "node:child_process";
import { rename, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { copyLimitBytes } from "../disk-layers.ts";
import type { SnapshotFile } from "../driver.ts";
import type { FindData } from "../file-data.ts";
import { linkFile } from "../link-file.ts";
import { describeWritten } from "../snapshot-files.ts";
import { packerSocket } from "./box.ts";
import { copyLayer, diskName, packedName, packLayer } from "./disk.ts";
import { Orders } from "./orders.ts";

const run = promisify(execFile);

/** The least that a loop device can show of a file: one sector. */
const hiddenBytes = 512;

/** Long enough for a few MiB on the busiest host. */
const packDeadlineMs = 60_000;

export interface WrittenDisk {
  /** The machine's folder. */
  readonly folder: string;
  /** The program of `image.c`. */
  readonly imageTool: string;
  readonly findData: FindData;
}

/** Saves the layer of a machine that stands still and has written everything. @param isLast the machine ends next */
export async function saveWrittenLayer(disk: WrittenDisk, staging: string, isLast: boolean): Promise<SnapshotFile> {
  const image = join(disk.folder, diskName);
  const { blocks } = await stat(image);
  if (blocks * 512 <= copyLimitBytes) {
    await packDisk(disk.folder);
    await rename(join(disk.folder, packedName), join(staging, packedName));
    return describeWritten(staging, packedName);
  }
  const target = join(staging, diskName);
  if (!isLast) await copyLayer(image, target);
  else {
    await limitImage(disk, hiddenBytes);
    await linkFile(image, target);
  }
  return describeWritten(staging, diskName, { dataBlocks: await disk.findData(target) });
}

/** Lets the machine's launcher pack its disk. One that is of an earlier version, or gone, leaves that to `tar`. */
async function packDisk(folder: string): Promise<void> {
  const packer = await Orders.connect(packerSocket(folder)).catch(() => undefined);
  if (!packer) return packLayer(folder);
  try {
    await packer.give("pack", packDeadlineMs);
  } finally {
    packer.close();
  }
}

/** Lets a machine write to its disk again after a save that was to be its last. Does nothing when there was none. */
export async function reopenImage(disk: WrittenDisk): Promise<void> {
  await limitImage(disk, 0);
}

async function limitImage({ imageTool, folder }: WrittenDisk, bytes: number): Promise<void> {
  await run(imageTool, [join(folder, diskName), String(bytes)]);
}
