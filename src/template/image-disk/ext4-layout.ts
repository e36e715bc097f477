/** The superblock, the descriptors of groups and the head of the journal of an ext4 file system. */
import { blockBytes } from "./block-file.ts";

const feature = {
  compat: { hasJournal: 0x4, extendedAttributes: 0x8, directoryIndex: 0x20, fewBackups: 0x200 },
  incompat: { fileTypes: 0x2, extents: 0x40, flexibleGroups: 0x200 },
  readOnly: { largeFiles: 0x2, manyFolders: 0x20, largeInodes: 0x40 },
} as const;
const all = (flags: Readonly<Record<string, number>>) => Object.values(flags).reduce((sum, flag) => sum | flag, 0);

export interface Descriptor {
  readonly blockBitmap: number;
  readonly inodeBitmap: number;
  readonly inodeTable: number;
  readonly freeBlocks: number;
  readonly freeInodes: number;
  readonly directories: number;
}

export function descriptorTable(descriptors: readonly Descriptor[]): Buffer {
  const table = Buffer.alloc(Math.ceil((descriptors.length * 32) / blockBytes) * blockBytes);
  for (const [group, descriptor] of descriptors.entries()) {
    const at = group * 32;
    table.writeUInt32LE(descriptor.blockBitmap, at);
    table.writeUInt32LE(descriptor.inodeBitmap, at + 4);
    table.writeUInt32LE(descriptor.inodeTable, at + 8);
    table.writeUInt16LE(descriptor.freeBlocks, at + 12);
    table.writeUInt16LE(descriptor.freeInodes, at + 14);
    table.writeUInt16LE(descriptor.directories, at + 16);
  }
  return table;
}

export interface SuperblockFacts {
  readonly groups: number;
  readonly totalBlocks: number;
  readonly blocksPerGroup: number;
  readonly inodesPerGroup: number;
  readonly free: { readonly blocks: number; readonly inodes: number };
  readonly uuid: Buffer;
  /** Map and size of the journal, of which the superblock keeps a copy. */
  readonly journalMap: Buffer;
}

/** The 1024 bytes that lie at byte 1024. */
export function superblock(facts: SuperblockFacts): Buffer {
  const block = Buffer.alloc(1024);
  const put = (at: number, value: number) => block.writeUInt32LE(value, at);
  put(0, facts.groups * facts.inodesPerGroup);
  put(4, facts.totalBlocks);
  put(12, facts.free.blocks);
  put(16, facts.free.inodes);
  // Size of blocks and of clusters: 1024 << 2.
  put(24, 2);
  put(28, 2);
  put(32, facts.blocksPerGroup);
  put(36, facts.blocksPerGroup);
  put(40, facts.inodesPerGroup);
  // Mounts before a check: any number.
  block.writeUInt16LE(0xffff, 54);
  block.writeUInt16LE(0xef53, 56);
  // Clean; goes on after an error.
  block.writeUInt16LE(1, 58);
  block.writeUInt16LE(1, 60);
  // Inodes of any size.
  put(76, 1);
  put(84, 11);
  block.writeUInt16LE(256, 88);
  put(92, all(feature.compat));
  put(96, all(feature.incompat));
  put(100, all(feature.readOnly));
  facts.uuid.copy(block, 104);
  block.write("image", 120, "latin1");
  // The journal is inode 8.
  put(224, 8);
  // Seed and function (half MD4) of hashes of names, for folders that grow in the guest.
  facts.uuid.copy(block, 236);
  block.writeUInt8(1, 252);
  // The copy of the journal's map is valid.
  block.writeUInt8(1, 253);
  // Default options: access control lists and attributes of users.
  put(256, 0xc);
  facts.journalMap.copy(block, 268);
  block.writeUInt16LE(32, 348);
  block.writeUInt16LE(32, 350);
  // Hashes of names take characters as signed.
  put(352, 1);
  // 2^4 groups are one flexible group.
  block.writeUInt8(4, 372);
  return block;
}

/** The first block of a journal in which nothing is to be replayed. Its numbers are big-endian. */
export function journalHeader(uuid: Buffer, blocks: number): Buffer {
  const block = Buffer.alloc(blockBytes);
  const put = (at: number, value: number) => block.writeUInt32BE(value, at);
  put(0, 0xc03b3998);
  // A superblock of the second form.
  put(4, 4);
  put(12, blockBytes);
  put(16, blocks);
  // The first block of its log, and the number of the first transaction.
  put(20, 1);
  put(24, 1);
  uuid.copy(block, 48);
  // One file system uses it.
  put(64, 1);
  return block;
}
