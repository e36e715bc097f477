/** The layers of an image, applied in order: entries become inodes of the tree, content goes to the disk. */
import { DomainError } from "../../errors.ts";
import type { BlockFile } from "./block-file.ts";
import type { TarEntry, TarSink } from "./tar.ts";
import { type Inode, newDirectory, type Tree } from "./tree.ts";

const whiteout = ".wh.";
const opaque = ".wh..wh..opq";
/** Other files of the union file system that the name was invented for. */
const unionPrefix = ".wh..wh.";
const maxTargetBytes = 4095;
/** Attributes in these name spaces are kept. What belongs to the file system of whoever made the layer is not. */
const keptAttribute = /^(?:user|security|trusted)\.(?!overlay\.)./;

/** Applies one layer after the other. @see TarReader, which feeds it */
export class LayerSink implements TarSink {
  readonly #tree: Tree;
  readonly #disk: BlockFile;
  #file: { readonly inode: Extract<Inode, { kind: "file" }>; leftBytes: number } | undefined;

  constructor(tree: Tree, disk: BlockFile) {
    this.#tree = tree;
    this.#disk = disk;
  }

  /** @throws DomainError `failed_precondition` naming the entry */
  entry(entry: TarEntry): void {
    const name = lastName(entry.path);
    if (name.startsWith(whiteout)) {
      this.#whiteOut(entry, name);
      return;
    }
    if (entry.kind === "hardlink") {
      if (entry.path !== entry.linkTarget) this.#tree.link(entry.path, entry.linkTarget);
      return;
    }
    const inode = inodeOf(entry);
    this.#tree.place(entry.path, inode);
    if (inode.kind !== "file" || entry.sizeBytes === 0) return;
    this.#file = { inode, leftBytes: entry.sizeBytes };
    this.#disk.begin();
  }

  data(bytes: Buffer): void {
    // A whiteout has no content; one that has is no reason to stop.
    if (!this.#file) return;
    this.#disk.append(bytes);
    this.#file.leftBytes -= bytes.length;
    if (this.#file.leftBytes > 0) return;
    this.#file.inode.runs = this.#disk.end();
    this.#file = undefined;
  }

  #whiteOut(entry: TarEntry, name: string): void {
    const folder = entry.path.slice(0, entry.path.length - name.length);
    if (name === opaque) this.#tree.emptyOfLower(folder);
    else if (!name.startsWith(unionPrefix)) this.#tree.whiteOut(folder + nameWhitedOut(name));
  }
}

function nameWhitedOut(name: string): string {
  const removed = name.slice(whiteout.length);
  if (removed !== "" && removed !== "." && removed !== "..") return removed;
  throw new DomainError("failed_precondition", `the image cannot be used: its whiteout '${name}' names no file`);
}

function inodeOf(entry: TarEntry): Inode {
  const { mode, uid, gid, mtimeS, kind, sizeBytes, major, minor, linkTarget } = entry;
  const kept = [...(entry.xattrs ?? [])].filter(([name]) => keptAttribute.test(name));
  const metadata = { mode, uid, gid, mtimeS, xattrs: kept.length > 0 ? new Map(kept) : undefined };
  switch (kind) {
    case "file":
      return { ...metadata, kind, sizeBytes, runs: [] };
    case "directory":
      return newDirectory(metadata);
    case "symlink":
      if (linkTarget === "" || linkTarget.length > maxTargetBytes || linkTarget.includes("\0")) {
        throw new DomainError(
          "failed_precondition",
          "the image cannot be used: a symbolic link in it is empty or too long",
        );
      }
      return { ...metadata, kind, target: linkTarget };
    case "character":
    case "block":
      return { ...metadata, kind, major, minor };
    case "fifo":
      return { ...metadata, kind };
    default:
      throw new Error(`${kind} is no inode of its own`);
  }
}

function lastName(path: string): string {
  return /([^/]*)\/*$/.exec(path)?.[1] ?? "";
}
