/** The inodes of an ext4 file system: metadata, the map of a file's blocks, extended attributes. */
import { DomainError } from "../../errors.ts";
import { type BlockFile, blockBytes } from "./block-file.ts";
import { attributeBlock, attributesInInode } from "./ext4-attributes.ts";
import type { BlockRun, Inode } from "./tree.ts";

const inodeBytes = 256;
const extraBytes = 32;
const extentsFlag = 0x80000;
const maxLinks = 65_000;
/** How many blocks one entry of the map can name. */
const maxExtentBlocks = 32_768;
const extentBytes = 12;
const extentsInInode = 4;
const extentsInBlock = Math.floor((blockBytes - extentBytes) / extentBytes);
const extentMagic = 0xf30a;

const modes = { file: 0x8000, directory: 0x4000, symlink: 0xa000, character: 0x2000, block: 0x6000, fifo: 0x1000 };
const types = { file: 1, directory: 2, symlink: 7, character: 3, block: 4, fifo: 5 };

/** ext4's code of the kind of an inode, in folders. */
export const typeCode = ({ kind }: Inode) => types[kind];

export interface InodePlace {
  readonly links: number;
  readonly sizeBytes: number;
  readonly runs: readonly BlockRun[];
}

export interface EncodedInode {
  readonly number: number;
  readonly bytes: Buffer;
  /** All blocks that belong to it, with those of its map and its attributes. */
  readonly runs: readonly BlockRun[];
}

/** @throws DomainError `failed_precondition` when its attributes do not fit */
export function encodeInode(inode: Inode, number: number, place: InodePlace, disk: BlockFile): EncodedInode {
  const bytes = Buffer.alloc(inodeBytes);
  const isMapped = inode.kind === "file" || inode.kind === "directory" || place.runs.length > 0;
  const mapRuns = isMapped ? writeMap(bytes, place.runs, disk) : [];
  if (inode.kind === "symlink" && !isMapped) bytes.write(inode.target, 40, "latin1");
  if (inode.kind === "character" || inode.kind === "block") writeDevice(bytes, inode.major, inode.minor);
  const attributes = writeAttributes(bytes, inode, disk);
  const runs = [...place.runs, ...mapRuns, ...attributes];
  writeHead(bytes, {
    mode: modes[inode.kind] | inode.mode,
    uid: inode.uid,
    gid: inode.gid,
    mtimeS: inode.mtimeS,
    // A folder with more folders than can be counted says one.
    links: inode.kind === "directory" && place.links >= maxLinks ? 1 : place.links,
    sizeBytes: place.sizeBytes,
    blocks: runs.reduce((sum, run) => sum + run.blocks, 0),
    flags: isMapped ? extentsFlag : 0,
  });
  return { number, bytes, runs };
}

/** The inode of the journal, and its map and size in the form that the superblock keeps a copy of. */
export function journalInode(run: BlockRun): { bytes: Buffer; map: Buffer } {
  const bytes = Buffer.alloc(inodeBytes);
  writeExtents(bytes.subarray(40, 100), extentsOf([run]), extentsInInode);
  const sizeBytes = run.blocks * blockBytes;
  const head = { uid: 0, gid: 0, mtimeS: 0, links: 1, sizeBytes, blocks: run.blocks, flags: extentsFlag };
  writeHead(bytes, { mode: modes.file | 0o600, ...head });
  const map = Buffer.alloc(17 * 4);
  bytes.copy(map, 0, 40, 100);
  map.writeUInt32LE(sizeBytes, 16 * 4);
  return { bytes, map };
}

interface Head {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeS: number;
  readonly links: number;
  readonly sizeBytes: number;
  readonly blocks: number;
  readonly flags: number;
}

function writeHead(bytes: Buffer, { mode, uid, gid, mtimeS, links, sizeBytes, blocks, flags }: Head): void {
  const time = clampTime(mtimeS);
  bytes.writeUInt16LE(mode, 0);
  bytes.writeUInt16LE(uid & 0xffff, 2);
  bytes.writeUInt32LE(sizeBytes % 2 ** 32, 4);
  for (const at of [8, 12, 16]) bytes.writeUInt32LE(time % 2 ** 32, at);
  bytes.writeUInt16LE(gid & 0xffff, 24);
  bytes.writeUInt16LE(links, 26);
  const sectors = blocks * (blockBytes / 512);
  bytes.writeUInt32LE(sectors % 2 ** 32, 28);
  bytes.writeUInt32LE(flags, 32);
  bytes.writeUInt32LE(Math.floor(sizeBytes / 2 ** 32), 108);
  bytes.writeUInt16LE(Math.floor(sectors / 2 ** 32), 116);
  bytes.writeUInt16LE(uid >>> 16, 120);
  bytes.writeUInt16LE(gid >>> 16, 122);
  bytes.writeUInt16LE(extraBytes, 128);
  // Two bits more for seconds: a time after 2038 overflows into them.
  const epoch = Math.floor((time + 2 ** 31) / 2 ** 32);
  for (const at of [132, 136, 140, 148]) bytes.writeUInt32LE(epoch, at);
  bytes.writeUInt32LE(time % 2 ** 32, 144);
}

/** Times before 1970 become 1970; ext4 knows no later one than that of 2446. */
const clampTime = (seconds: number) => Math.min(Math.max(0, seconds), 2 ** 31 + 3 * 2 ** 32 - 1);

function writeDevice(bytes: Buffer, major: number, minor: number): void {
  if (major < 256 && minor < 256) bytes.writeUInt32LE((major << 8) | minor, 40);
  else bytes.writeUInt32LE(((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfffff00) << 12)) >>> 0, 44);
}

/** Few attributes lie in the inode, more in a block of their own. @returns that block */
function writeAttributes(bytes: Buffer, { xattrs }: Inode, disk: BlockFile): readonly BlockRun[] {
  if (!xattrs) return [];
  const inside = attributesInInode(xattrs, inodeBytes - 128 - extraBytes);
  if (inside) {
    inside.copy(bytes, 128 + extraBytes);
    return [];
  }
  const runs = disk.store(attributeBlock(xattrs));
  bytes.writeUInt32LE(runs[0]?.firstBlock ?? 0, 104);
  return runs;
}

interface Extent {
  readonly fileBlock: number;
  readonly firstBlock: number;
  readonly blocks: number;
}

function extentsOf(runs: readonly BlockRun[]): Extent[] {
  const extents: Extent[] = [];
  let fileBlock = 0;
  for (const { firstBlock, blocks } of runs) {
    for (let done = 0; done < blocks; ) {
      const length = Math.min(maxExtentBlocks, blocks - done);
      extents.push({ fileBlock, firstBlock: firstBlock + done, blocks: length });
      done += length;
      fileBlock += length;
    }
  }
  return extents;
}

/** Writes the map of a file into its inode; a long one has leaves in blocks of its own, which are returned. */
function writeMap(bytes: Buffer, runs: readonly BlockRun[], disk: BlockFile): BlockRun[] {
  const extents = extentsOf(runs);
  const root = bytes.subarray(40, 100);
  if (extents.length <= extentsInInode) {
    writeExtents(root, extents, extentsInInode);
    return [];
  }
  const leaves: Extent[][] = [];
  for (let at = 0; at < extents.length; at += extentsInBlock) leaves.push(extents.slice(at, at + extentsInBlock));
  if (leaves.length > extentsInInode) {
    throw new DomainError("failed_precondition", "a file of the image is larger than firkin can put on a disk");
  }
  writeExtentHead(root, leaves.length, extentsInInode, 1);
  return leaves.flatMap((leaf, index) => {
    const block = Buffer.alloc(blockBytes);
    writeExtents(block, leaf, extentsInBlock);
    const stored = disk.store(block);
    const at = extentBytes * (index + 1);
    root.writeUInt32LE(leaf[0]?.fileBlock ?? 0, at);
    root.writeUInt32LE(stored[0]?.firstBlock ?? 0, at + 4);
    return stored;
  });
}

function writeExtentHead(target: Buffer, entries: number, room: number, depth: number): void {
  target.writeUInt16LE(extentMagic, 0);
  target.writeUInt16LE(entries, 2);
  target.writeUInt16LE(room, 4);
  target.writeUInt16LE(depth, 6);
}

function writeExtents(target: Buffer, extents: readonly Extent[], room: number): void {
  writeExtentHead(target, extents.length, room, 0);
  for (const [index, { fileBlock, firstBlock, blocks }] of extents.entries()) {
    const at = extentBytes * (index + 1);
    target.writeUInt32LE(fileBlock, at);
    target.writeUInt16LE(blocks, at + 4);
    target.writeUInt32LE(firstBlock, at + 8);
  }
}
