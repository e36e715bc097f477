/** Extended attributes of an ext4 inode, in the inode itself or in one block. */
import { DomainError } from "../../errors.ts";
import { blockBytes } from "./block-file.ts";

const magic = 0xea020000;
const blockHeadBytes = 32;
const entryBytes = 16;
const prefixes = [
  ["user.", 1],
  ["trusted.", 4],
  ["security.", 6],
] as const;

interface Attribute {
  readonly prefix: number;
  /** Latin1, without its prefix. */
  readonly name: string;
  readonly value: Buffer;
}

/** The area of an inode for attributes; undefined when they do not fit. */
export function attributesInInode(xattrs: ReadonlyMap<string, Buffer>, areaBytes: number): Buffer | undefined {
  const list = attributesOf(xattrs);
  // Four bytes before the entries, four of zero behind them.
  if (bytesOf(list) + 8 > areaBytes) return undefined;
  const area = Buffer.alloc(areaBytes);
  area.writeUInt32LE(magic, 0);
  writeEntries(area, 4, 4, list);
  return area;
}

/** @throws DomainError `failed_precondition` when they do not fit into a block */
export function attributeBlock(xattrs: ReadonlyMap<string, Buffer>): Buffer {
  const list = attributesOf(xattrs);
  if (bytesOf(list) + blockHeadBytes + 4 > blockBytes) {
    const names = list.map(({ name }) => name.slice(0, 40)).join(", ");
    throw new DomainError(
      "failed_precondition",
      `the image cannot be used: attributes of a file are too long (${names})`,
    );
  }
  const block = Buffer.alloc(blockBytes);
  block.writeUInt32LE(magic, 0);
  block.writeUInt32LE(1, 4);
  block.writeUInt32LE(1, 8);
  const hashes = writeEntries(block, blockHeadBytes, 0, list);
  block.writeUInt32LE(hashes.includes(0) ? 0 : hashes.reduce((sum, hash) => mix(sum, hash, 16), 0), 12);
  return block;
}

function attributesOf(xattrs: ReadonlyMap<string, Buffer>): Attribute[] {
  const list = [...xattrs].flatMap(([full, value]) => {
    const found = prefixes.find(([text]) => full.startsWith(text));
    if (!found) return [];
    const [text, prefix] = found;
    const name = full.slice(text.length);
    if (name.length > 255)
      throw new DomainError("failed_precondition", "the image cannot be used: the name of an attribute is too long");
    return [{ prefix, name, value }];
  });
  // The kernel looks them up in this order.
  return list.sort((one, other) => {
    return one.prefix - other.prefix || one.name.length - other.name.length || (one.name < other.name ? -1 : 1);
  });
}

const padded = (length: number) => Math.ceil(length / 4) * 4;

function bytesOf(list: readonly Attribute[]): number {
  return list.reduce((sum, { name, value }) => sum + entryBytes + padded(name.length) + padded(value.length), 0);
}

/**
 * Entries from the front, values from the end.
 * @param origin where offsets of values count from
 * @returns the hash of each entry
 */
function writeEntries(area: Buffer, start: number, origin: number, list: readonly Attribute[]): number[] {
  let at = start;
  let end = area.length;
  return list.map(({ prefix, name, value }) => {
    end -= padded(value.length);
    value.copy(area, end);
    const hash = hashOf(name, area.subarray(end, end + padded(value.length)));
    area.writeUInt8(name.length, at);
    area.writeUInt8(prefix, at + 1);
    area.writeUInt16LE(value.length === 0 ? 0 : end - origin, at + 2);
    area.writeUInt32LE(value.length, at + 8);
    area.writeUInt32LE(hash, at + 12);
    area.write(name, at + entryBytes, "latin1");
    at += entryBytes + padded(name.length);
    return hash;
  });
}

function hashOf(name: string, value: Buffer): number {
  let hash = 0;
  for (const byte of Buffer.from(name, "latin1")) hash = mix(hash, byte, 5);
  for (let at = 0; at < value.length; at += 4) hash = mix(hash, value.readUInt32LE(at), 16);
  return hash;
}

const mix = (hash: number, next: number, shift: number) => (((hash << shift) | (hash >>> (32 - shift))) ^ next) >>> 0;
