/**
 * The disk of an image: its layers merged and written as one ext4 file system. It blocks while it writes, so the daemon
 * runs it in a process of its own (`process.ts`). This room knows archives, trees and blocks, and calls no other room.
 */
import { closeSync, ftruncateSync, openSync } from "node:fs";
import { BlockFile, blockBytes } from "./block-file.ts";
import { headerBlocks, type WrittenFileSystem, writeFileSystem } from "./ext4.ts";
import { fillGaps, type GapFiles } from "./gaps.ts";
import { LayerSink } from "./layers.ts";
import { TarReader } from "./tar.ts";
import { Tree } from "./tree.ts";
import { type LayerFile, unpackLayer } from "./unpack.ts";

export interface DiskOrder {
  /** From the lowest up. */
  readonly layers: readonly LayerFile[];
  /** A file that does not exist. */
  readonly target: string;
  /** The environment that the image's configuration gives processes. */
  readonly envs: Readonly<Record<string, string>>;
  readonly gaps: GapFiles;
  readonly limits: { readonly maxEntries: number; readonly maxDiskMiB: number };
  readonly minDiskMiB: number;
  readonly minFreeMiB: number;
}

export interface MadeDisk extends WrittenFileSystem {
  /** What the image lacked and got, for people. */
  readonly filled: readonly string[];
}

/**
 * Writes the disk.
 * @param progress called with a sentence for each layer
 * @param wrote called now and then, when a good deal more has been written
 * @throws DomainError `failed_precondition` when the image cannot be used, `unsupported` as {@link unpackLayer}; a
 *   system error when the disk cannot be written. The target is left as it is then.
 */
export async function makeDisk(
  order: DiskOrder,
  progress: (line: string) => void,
  wrote: () => void = () => {},
): Promise<MadeDisk> {
  const fd = openSync(order.target, "wx+", 0o600);
  try {
    const disk = new BlockFile(fd, headerBlocks, (order.limits.maxDiskMiB * 2 ** 20) / blockBytes, wrote);
    const tree = new Tree(order.limits);
    const sink = new LayerSink(tree, disk);
    for (const layer of order.layers) {
      progress(`Uncompressing layer ${layer.diffId} ${megabytes(layer.sizeBytes)}`);
      tree.beginLayer();
      const reader = new TarReader(sink);
      await unpackLayer(layer, (bytes) => reader.push(bytes));
      reader.end();
    }
    progress("Layers extracted");
    progress(`Root filesystem structure: ${[...tree.root.children.keys()].sort().slice(0, 40).join(", ")}`);
    tree.beginLayer();
    const filled = fillGaps({ tree, disk, envs: order.envs, files: order.gaps });
    const written = writeFileSystem(tree, disk, order);
    ftruncateSync(fd, written.diskMiB * 2 ** 20);
    return { ...written, filled };
  } finally {
    closeSync(fd);
  }
}

const megabytes = (bytes: number) => `${Math.max(1, Math.round(bytes / 2 ** 20))} MB`;
