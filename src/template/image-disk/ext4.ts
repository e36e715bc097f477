/**
 * Writes the tree of an image as an ext4 file system around content that is on the disk already. No mount, no root and
 * no program is needed, and it works on every host that runs the daemon. What comes after the content are folders,
 * bitmaps, tables of inodes and the journal; `flex_bg` lets all of it lie anywhere. Checksums of metadata are left out,
 * because the image is checked by its digest. `e2fsck -fn` finds nothing wrong with it, which the tests hold.
 */
import { randomBytes } from "node:crypto";
import { DomainError } from "../../errors.ts";
import { type BlockFile, blockBytes } from "./block-file.ts";
import { directoryBlocks } from "./ext4-directory.ts";
import { type EncodedInode, encodeInode, type InodePlace, journalInode, typeCode } from "./ext4-inode.ts";
import { descriptorTable, journalHeader, superblock } from "./ext4-layout.ts";
import type { Child, Directory, Inode, Tree } from "./tree.ts";

/** Blocks at the beginning for the superblock and the descriptors of groups: room for 1 TiB. */
export const headerBlocks = 64;
const blocksPerGroup = 32_768;
const inodeBytes = 256;
const inodesPerBlock = blockBytes / inodeBytes;
const firstInode = 11;
const rootInode = 2;
const journalInodeNumber = 8;
const journalBlocks = 4096;
/** One inode for so many bytes, as mke2fs does. */
const bytesPerInode = 16_384;

export interface FileSystemSize {
  /** The disk has at least this size. */
  readonly minDiskMiB: number;
  /** At least this much of the disk is free. */
  readonly minFreeMiB: number;
}

export interface WrittenFileSystem {
  readonly diskMiB: number;
  readonly files: number;
  readonly usedMiB: number;
}

interface NumberedDirectory {
  readonly inode: Directory;
  readonly number: number;
  readonly parent: number;
}

/** The inodes that names lead to, with their numbers and the number of their names. */
interface Numbering {
  readonly numbers: ReadonlyMap<Inode, number>;
  readonly names: ReadonlyMap<Inode, number>;
  readonly directories: readonly NumberedDirectory[];
}

/**
 * Finishes the disk. @returns its size, which the file has then
 * @throws DomainError `failed_precondition` when ext4 cannot hold what the image has
 */
export function writeFileSystem(tree: Tree, disk: BlockFile, size: FileSystemSize): WrittenFileSystem {
  const numbering = numberInodes(tree.root);
  const used: InodePlace["runs"][number][] = [];
  const encoded: EncodedInode[] = [];
  const folders = new Map(numbering.directories.map((directory) => [directory.inode as Inode, directory]));
  for (const [inode, number] of numbering.numbers) {
    const folder = folders.get(inode);
    const place = folder ? placeDirectory(folder, numbering, disk) : placeOther(inode, numbering, disk);
    const result = encodeInode(inode, number, place, disk);
    used.push(...result.runs);
    encoded.push(result);
  }
  const journal = { firstBlock: disk.reserve(journalBlocks), blocks: journalBlocks };
  const uuid = randomBytes(16);
  disk.writeAt(journal.firstBlock, journalHeader(uuid, journalBlocks));
  used.push(journal);
  const highest = firstInode - 1 + numbering.numbers.size - 1;
  const shape = chooseShape(disk.nextBlock, highest, size);
  const { groups, totalBlocks, inodesPerGroup } = shape;
  const bitmaps = disk.reserve(groups * 2);
  const tables = disk.reserve((groups * inodesPerGroup) / inodesPerBlock);
  const metadataEnd = disk.nextBlock;
  const descriptorBlocks = Math.ceil((groups * 32) / blockBytes);
  used.push({ firstBlock: 0, blocks: 1 + descriptorBlocks }, { firstBlock: bitmaps, blocks: metadataEnd - bitmaps });

  const blockMap = bitmapOf(used, groups * blocksPerGroup, totalBlocks);
  const inodeMap = inodeBitmap(groups, inodesPerGroup, highest);
  const directoriesOf = countDirectories(numbering, groups, inodesPerGroup);
  const descriptors = Array.from({ length: groups }, (_, group) => ({
    blockBitmap: bitmaps + group * 2,
    inodeBitmap: bitmaps + group * 2 + 1,
    inodeTable: tables + (group * inodesPerGroup) / inodesPerBlock,
    freeBlocks: blocksPerGroup - countOnes(blockMap, group * blocksPerGroup, blocksPerGroup),
    freeInodes: inodesPerGroup - Math.max(0, Math.min(inodesPerGroup, highest - group * inodesPerGroup)),
    directories: directoriesOf[group] ?? 0,
  }));
  for (const [group, { blockBitmap, inodeBitmap: inodeBlock }] of descriptors.entries()) {
    disk.writeAt(blockBitmap, slice(blockMap, group));
    disk.writeAt(inodeBlock, slice(inodeMap, group));
  }
  writeInodes(disk, tables, encoded);
  const journalPlace = journalInode(journal);
  disk.writeAt(tables, journalPlace.bytes, (journalInodeNumber - 1) * inodeBytes);
  disk.writeAt(1, descriptorTable(descriptors));
  const free = {
    blocks: descriptors.reduce((sum, { freeBlocks }) => sum + freeBlocks, 0),
    inodes: descriptors.reduce((sum, { freeInodes }) => sum + freeInodes, 0),
  };
  const facts = { ...shape, free, uuid, journalMap: journalPlace.map, journalBytes: journalBlocks * blockBytes };
  disk.writeAt(0, superblock({ ...facts, blocksPerGroup }), 1024);
  disk.sync();
  const usedMiB = Math.ceil(((totalBlocks - free.blocks) * blockBytes) / 2 ** 20);
  return { diskMiB: (totalBlocks * blockBytes) / 2 ** 20, files: numbering.numbers.size, usedMiB };
}

/** Numbers every inode that a name leads to, folders before what is in them. */
function numberInodes(root: Directory): Numbering {
  const numbers = new Map<Inode, number>([[root, rootInode]]);
  const names = new Map<Inode, number>();
  const directories: NumberedDirectory[] = [{ inode: root, number: rootInode, parent: rootInode }];
  for (let at = 0; at < directories.length; at++) {
    const folder = directories[at];
    if (!folder) break;
    for (const [, { inode }] of sorted(folder.inode)) {
      names.set(inode, (names.get(inode) ?? 0) + 1);
      if (numbers.has(inode)) continue;
      const number = firstInode + numbers.size - 1;
      numbers.set(inode, number);
      if (inode.kind === "directory") directories.push({ inode, number, parent: folder.number });
    }
  }
  return { numbers, names, directories };
}

function placeDirectory(folder: NumberedDirectory, { numbers }: Numbering, disk: BlockFile): InodePlace {
  const { inode, number, parent } = folder;
  const entries = sorted(inode).map(([name, child]) => ({
    name,
    number: numbers.get(child.inode) ?? 0,
    type: typeCode(child.inode),
  }));
  const content = directoryBlocks(number, parent, entries);
  const folders = entries.filter(({ type }) => type === 2).length;
  return { links: 2 + folders, sizeBytes: content.length, runs: disk.store(content) };
}

function placeOther(inode: Inode, { names }: Numbering, disk: BlockFile): InodePlace {
  const links = names.get(inode) ?? 1;
  if (inode.kind === "file") return { links, sizeBytes: inode.sizeBytes, runs: inode.runs };
  // A short target lies in the inode itself.
  if (inode.kind === "symlink" && inode.target.length >= 60) {
    return { links, sizeBytes: inode.target.length, runs: disk.store(Buffer.from(inode.target, "latin1")) };
  }
  return { links, sizeBytes: inode.kind === "symlink" ? inode.target.length : 0, runs: [] };
}

interface Shape {
  readonly groups: number;
  readonly totalBlocks: number;
  readonly inodesPerGroup: number;
}

/** The size of the disk, in whole groups, and how many inodes it has. */
function chooseShape(usedBlocks: number, highestInode: number, { minDiskMiB, minFreeMiB }: FileSystemSize): Shape {
  const blocksOf = (mib: number) => (mib * 2 ** 20) / blockBytes;
  const wantedBlocks = Math.max(blocksOf(minDiskMiB), usedBlocks + blocksOf(minFreeMiB));
  const groups = Math.ceil(wantedBlocks / blocksPerGroup);
  const wantedInodes = Math.max((groups * blocksPerGroup * blockBytes) / bytesPerInode, highestInode * 1.5 + 4096);
  const inodesPerGroup = Math.ceil(wantedInodes / groups / inodesPerBlock) * inodesPerBlock;
  if (inodesPerGroup > blocksPerGroup) {
    throw new DomainError("failed_precondition", "the image has more files than its disk can hold");
  }
  return { groups, totalBlocks: groups * blocksPerGroup, inodesPerGroup };
}

/** All inodes lie one after the other, so their table is written as one. */
function writeInodes(disk: BlockFile, tables: number, encoded: readonly EncodedInode[]): void {
  const batch = 4096;
  for (const { number, bytes } of encoded.filter(({ number }) => number < firstInode)) {
    disk.writeAt(tables, bytes, (number - 1) * inodeBytes);
  }
  const rest = encoded.filter(({ number }) => number >= firstInode);
  for (let at = 0; at < rest.length; at += batch) {
    const part = rest.slice(at, at + batch);
    disk.writeAt(tables, Buffer.concat(part.map(({ bytes }) => bytes)), (firstInode - 1 + at) * inodeBytes);
  }
}

/** @param bits of the whole bitmap; those behind `existing` are set, because there is nothing there */
function bitmapOf(runs: InodePlace["runs"], bits: number, existing: number): Buffer {
  const map = Buffer.alloc(bits / 8);
  const set = (first: number, count: number) => {
    let at = first;
    const end = first + count;
    while (at < end && at % 8 !== 0) setBit(map, at++);
    const wholeBytes = Math.floor((end - at) / 8);
    if (wholeBytes > 0) map.fill(0xff, at / 8, at / 8 + wholeBytes);
    at += wholeBytes * 8;
    while (at < end) setBit(map, at++);
  };
  for (const { firstBlock, blocks } of runs) set(firstBlock, blocks);
  set(existing, bits - existing);
  return map;
}

/** One block for each group; bits behind its inodes are set. */
function inodeBitmap(groups: number, inodesPerGroup: number, highest: number): Buffer {
  const map = Buffer.alloc(groups * blockBytes, 0xff);
  for (let group = 0; group < groups; group++) {
    const start = group * blockBytes;
    map.fill(0, start, start + inodesPerGroup / 8);
    const used = Math.max(0, Math.min(inodesPerGroup, highest - group * inodesPerGroup));
    for (let bit = 0; bit < used; bit++) setBit(map, start * 8 + bit);
  }
  return map;
}

function countDirectories({ directories }: Numbering, groups: number, inodesPerGroup: number): number[] {
  const counts = new Array<number>(groups).fill(0);
  for (const { number } of directories) {
    const group = Math.floor((number - 1) / inodesPerGroup);
    counts[group] = (counts[group] ?? 0) + 1;
  }
  return counts;
}

function setBit(map: Buffer, bit: number): void {
  map[bit >> 3] = (map[bit >> 3] ?? 0) | (1 << (bit & 7));
}

function countOnes(map: Buffer, firstBit: number, bits: number): number {
  let count = 0;
  for (let byte = firstBit / 8; byte < (firstBit + bits) / 8; byte++) count += ones[map[byte] ?? 0] ?? 0;
  return count;
}

const ones = Array.from({ length: 256 }, (_, value) => value.toString(2).replaceAll("0", "").length);
const slice = (map: Buffer, group: number) => map.subarray(group * blockBytes, (group + 1) * blockBytes);

function sorted(folder: Directory): [name: string, child: Child][] {
  return [...folder.children].sort(([one], [other]) => (one < other ? -1 : 1));
}
