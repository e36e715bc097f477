/**
 * The tree of files that the layers of an image make together, by the rules of OCI. Nothing of it is ever a path on the
 * host: names are keys in memory, and links are resolved inside of the tree. Names are latin1, one character a byte.
 */
import { DomainError } from "../../errors.ts";

/** A run of blocks of the disk, in the order of the file. */
export interface BlockRun {
  readonly firstBlock: number;
  readonly blocks: number;
}

export interface Metadata {
  mode: number;
  uid: number;
  gid: number;
  mtimeS: number;
  xattrs: ReadonlyMap<string, Buffer> | undefined;
}

export type Inode = Metadata &
  (
    | { readonly kind: "file"; sizeBytes: number; runs: readonly BlockRun[] }
    | { readonly kind: "symlink"; readonly target: string }
    | { readonly kind: "character" | "block"; readonly major: number; readonly minor: number }
    | { readonly kind: "fifo" }
    | Directory
  );

/** `placedBy` is the layer that the name came from, `touchedBy` the last layer that put something below the folder. */
export interface Directory extends Metadata {
  readonly kind: "directory";
  readonly children: Map<string, Child>;
  touchedBy: number;
}

export interface Child {
  readonly inode: Inode;
  placedBy: number;
}

export interface TreeLimits {
  readonly maxEntries: number;
}

const maxPathBytes = 4096;
const maxNameBytes = 255;
const maxLinks = 40;
/** Through links a path can lead deeper than its own length. */
const maxDepth = 1000;
/** ext4 counts links of a file in 16 bits. */
const maxHardLinks = 65_000;

export class Tree {
  readonly root: Directory = newDirectory({ mode: 0o755, uid: 0, gid: 0, mtimeS: 0, xattrs: undefined });
  readonly #limits: TreeLimits;
  readonly #links = new Map<Inode, number>();
  #entries = 0;
  #layer = 0;

  constructor(limits: TreeLimits) {
    this.#limits = limits;
  }

  /** What is placed from now on belongs to the next layer. */
  beginLayer(): void {
    this.#layer += 1;
  }

  /**
   * Puts an inode at a path. A folder over a folder keeps what is in it and takes the new metadata; everything else
   * replaces what was there. Missing parents are made.
   * @throws DomainError `failed_precondition` naming the path
   */
  place(path: string, inode: Inode): void {
    const parts = partsOf(path);
    const name = parts.pop();
    if (name === undefined) {
      if (inode.kind !== "directory") throw bad(path, "the root of the image can only be a folder");
      this.#takeMetadata(this.root, inode);
      return;
    }
    const parent = this.#folder(parts, path);
    const there = parent.children.get(name);
    if (there?.inode.kind === "directory" && inode.kind === "directory") {
      this.#takeMetadata(there.inode, inode);
      there.placedBy = this.#layer;
      return;
    }
    this.#count(path);
    parent.children.set(name, { inode, placedBy: this.#layer });
  }

  /**
   * Gives what is at `target` a second name. The inode lives on when its first name goes.
   * @throws DomainError `failed_precondition` when there is no file there
   */
  link(path: string, target: string): void {
    const parts = partsOf(path);
    const targetParts = partsOf(target);
    const name = parts.pop();
    const targetName = targetParts.pop();
    const source = targetName === undefined ? undefined : this.#find(targetParts)?.children.get(targetName)?.inode;
    if (name === undefined || !source) throw bad(path, `it is a hard link to ${show(target)}, which is not there`);
    if (source.kind === "directory") throw bad(path, "it is a hard link to a folder");
    const links = (this.#links.get(source) ?? 1) + 1;
    if (links > maxHardLinks) throw bad(path, `the file has more than ${maxHardLinks} names`);
    this.#links.set(source, links);
    this.#count(path);
    this.#folder(parts, path).children.set(name, { inode: source, placedBy: this.#layer });
  }

  /** Removes what lower layers have at a path. */
  whiteOut(path: string): void {
    const parts = partsOf(path);
    const name = parts.pop();
    const parent = name === undefined ? undefined : this.#find(parts);
    if (!parent || name === undefined) return;
    const child = parent.children.get(name);
    if (child) this.#removeLower(parent, name, child);
  }

  /** Removes what lower layers have in a folder. */
  emptyOfLower(path: string): void {
    const folder = this.#find(partsOf(path));
    if (folder) this.#clearLower(folder);
  }

  /** The inode at a path with links followed; undefined when there is none. */
  lookup(path: string): Inode | undefined {
    return this.#walk(partsOf(path), ({ links }) => (links > maxLinks ? "stop" : "follow"));
  }

  /** The inode at a path whose last part is not followed. */
  peek(path: string): Inode | undefined {
    const parts = partsOf(path);
    const name = parts.pop();
    return name === undefined ? this.root : this.#find(parts)?.children.get(name)?.inode;
  }

  /** The names of a folder, with links followed. */
  list(path: string): readonly string[] {
    const folder = this.lookup(path);
    return folder?.kind === "directory" ? [...folder.children.keys()] : [];
  }

  remove(path: string): void {
    const parts = partsOf(path);
    const name = parts.pop();
    if (name !== undefined) this.#find(parts)?.children.delete(name);
  }

  #takeMetadata(folder: Directory, { mode, uid, gid, mtimeS, xattrs }: Metadata): void {
    Object.assign(folder, { mode, uid, gid, mtimeS, xattrs });
    folder.touchedBy = this.#layer;
  }

  #count(path: string): void {
    this.#entries += 1;
    if (this.#entries > this.#limits.maxEntries) {
      throw bad(path, `the image has more than ${this.#limits.maxEntries} entries`);
    }
  }

  #removeLower(parent: Directory, name: string, child: Child): void {
    const { inode } = child;
    if (inode.kind === "directory" && inode.touchedBy === this.#layer) this.#clearLower(inode);
    else if (child.placedBy !== this.#layer) parent.children.delete(name);
  }

  #clearLower(folder: Directory): void {
    for (const [name, child] of [...folder.children]) this.#removeLower(folder, name, child);
  }

  /** The folder at a path, made where it is missing. Links in it are followed. */
  #folder(parts: readonly string[], path: string): Directory {
    const found = this.#walk(
      parts,
      ({ folder, name, links, depth }) => {
        if (links > maxLinks) throw bad(path, "its folder is a link that leads in a circle");
        if (name === undefined) return "follow";
        if (depth > maxDepth) throw bad(path, `it is more than ${maxDepth} folders deep`);
        this.#count(path);
        const made = newDirectory({ mode: 0o755, uid: 0, gid: 0, mtimeS: 0, xattrs: undefined });
        folder.children.set(name, { inode: made, placedBy: this.#layer });
        return "follow";
      },
      this.#layer,
    );
    if (found?.kind === "directory") return found;
    throw bad(path, "it is below something that is no folder");
  }

  #find(parts: readonly string[]): Directory | undefined {
    const found = this.#walk(parts, ({ links }) => (links > maxLinks ? "stop" : "follow"));
    return found?.kind === "directory" ? found : undefined;
  }

  /**
   * Walks down from the root, through links, of which absolute ones and `..` begin at and end at the root.
   * @param decide asked at every link, and at every name that is missing, which it may make
   * @param touch the layer that folders on the way are marked with
   */
  #walk(
    parts: readonly string[],
    decide: (at: { folder: Directory; name: string | undefined; links: number; depth: number }) => "follow" | "stop",
    touch?: number,
  ): Inode | undefined {
    const open = [...parts].reverse();
    let way: Directory[] = [this.root];
    let links = 0;
    if (touch !== undefined) this.root.touchedBy = touch;
    for (let name = open.pop(); name !== undefined; name = open.pop()) {
      const folder = way.at(-1) ?? this.root;
      if (name === "..") {
        if (way.length > 1) way.pop();
        continue;
      }
      if (!folder.children.has(name) && decide({ folder, name, links, depth: way.length }) === "stop") return undefined;
      const inode = folder.children.get(name)?.inode;
      if (inode === undefined) return undefined;
      if (inode.kind === "symlink") {
        links += 1;
        if (decide({ folder, name: undefined, links, depth: way.length }) === "stop") return undefined;
        if (inode.target.startsWith("/")) way = [this.root];
        open.push(...linkParts(inode.target).reverse());
        continue;
      }
      if (inode.kind !== "directory") return open.length === 0 ? inode : undefined;
      if (touch !== undefined) inode.touchedBy = touch;
      way.push(inode);
    }
    return way.at(-1);
  }
}

export function newDirectory(metadata: Metadata): Directory {
  return { ...metadata, kind: "directory", children: new Map(), touchedBy: 0 };
}

/** The parts of a path in an archive. @throws DomainError `failed_precondition` when it leads out, or is too long */
function partsOf(path: string): string[] {
  if (path.length > maxPathBytes) throw bad(path, `the path is longer than ${maxPathBytes} bytes`);
  if (path.includes("\0")) throw bad(path, "the path has a NUL byte");
  const parts = path.split("/").filter((part) => part !== "" && part !== ".");
  for (const part of parts) {
    if (part === "..") throw bad(path, "the path leads upwards");
    if (part.length > maxNameBytes) throw bad(path, `a name in it is longer than ${maxNameBytes} bytes`);
  }
  return parts;
}

const linkParts = (target: string) => target.split("/").filter((part) => part !== "" && part !== ".");

/** A path for people; it is hostile text. */
function show(path: string): string {
  const text = Buffer.from(path, "latin1").toString("utf8");
  const visible = JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}…` : text);
  return `'${visible.slice(1, -1)}'`;
}

function bad(path: string, why: string): DomainError {
  return new DomainError("failed_precondition", `the image cannot be used because of ${show(path)}: ${why}`);
}
