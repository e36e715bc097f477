/** The blocks of an ext4 folder: a list of names with the numbers of their inodes. */
import { blockBytes } from "./block-file.ts";

export interface DirectoryEntry {
  /** Latin1, at most 255 bytes. */
  readonly name: string;
  readonly number: number;
  /** ext4's code of the kind of inode. */
  readonly type: number;
}

const headBytes = 8;
const directoryType = 2;

/** The content of a folder. The last entry of each block reaches to its end. */
export function directoryBlocks(self: number, parent: number, entries: readonly DirectoryEntry[]): Buffer {
  const all = [
    { name: ".", number: self, type: directoryType },
    { name: "..", number: parent, type: directoryType },
    ...entries,
  ];
  const blocks: DirectoryEntry[][] = [[]];
  let usedBytes = 0;
  for (const entry of all) {
    const length = lengthOf(entry);
    if (usedBytes + length > blockBytes) {
      blocks.push([]);
      usedBytes = 0;
    }
    blocks.at(-1)?.push(entry);
    usedBytes += length;
  }
  return Buffer.concat(blocks.map(encodeBlock));
}

const lengthOf = ({ name }: DirectoryEntry) => headBytes + Math.ceil(name.length / 4) * 4;

function encodeBlock(entries: readonly DirectoryEntry[]): Buffer {
  const block = Buffer.alloc(blockBytes);
  let at = 0;
  for (const [index, entry] of entries.entries()) {
    const length = index === entries.length - 1 ? blockBytes - at : lengthOf(entry);
    block.writeUInt32LE(entry.number, at);
    block.writeUInt16LE(length, at + 4);
    block.writeUInt8(entry.name.length, at + 6);
    block.writeUInt8(entry.type, at + 7);
    block.write(entry.name, at + headBytes, "latin1");
    at += length;
  }
  return block;
}
