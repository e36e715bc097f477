/**
 * The memory changes of a restored VM are a file with the pages that are no longer those of the image it maps. Saving
 * them takes time in proportion to their size. A VM that maps the same image gets them back when they are written into
 * its memory before it runs. Layout, little-endian: "FKMC", format 1, number of runs, then first page and page count of
 * each run, padded to a page; then the pages of all runs, one after the other.
 */
import { type FileHandle, open, readFile } from "node:fs/promises";
import { DomainError } from "../../errors.ts";
import { allSettledOrThrow } from "../../scope.ts";
import type { SnapshotFile } from "../driver.ts";
import { blockBytes, writeDescribed } from "../snapshot-files.ts";
import { findChangedPages, type Mapping, type PageRun, pageBytes, parseMappings, readExactly } from "./memory.ts";

const magic = 0x434d4b46;
const format = 1;
const headBytes = 12;
const runBytes = 8;
/** Pages of one step: 32 MiB of guest memory, 64 KiB of pagemap. */
const pagesPerStep = 8192;
/** Runs this close together become one, because a few unchanged pages cost less than another read and another write. */
const bridgedPages = 4;
/** Longest piece written into a VM at once. */
const pagesPerWrite = 256;
/** More than one, so that a piece is read while another is written. */
const writersAtOnce = 3;
/** More bytes than the index of any image has. */
const maxIndexBytes = 64 << 20;

/** A run of the image's pages, and where the process has it. */
interface PlacedRun extends PageRun {
  readonly address: number;
}

/**
 * Saves the pages of `mappedPath` that a paused process, which maps it privately, changed.
 * @throws DomainError `machine_failed` when the process does not map the file
 */
export async function saveMemoryChanges(
  pid: number,
  mappedPath: string,
  target: { readonly folder: string; readonly name: string },
): Promise<SnapshotFile> {
  const mappings = await mappingsOf(pid, mappedPath);
  await using pagemap = await open(`/proc/${pid}/pagemap`, "r");
  await using memory = await open(`/proc/${pid}/mem`, "r");
  const runs: PlacedRun[] = [];
  for (const mapping of mappings) runs.push(...(await findRuns(pagemap, mapping)));
  return await writeDescribed(target, blocksOf(runs, memory));
}

/**
 * Puts changes back into a process that maps the image they were saved against and has not run yet.
 * @throws DomainError `machine_failed` when the changes do not fit, or the process does not map the file
 */
export async function loadMemoryChanges(pid: number, mappedPath: string, path: string): Promise<void> {
  const mappings = await mappingsOf(pid, mappedPath);
  await using source = await open(path, "r");
  await using memory = await open(`/proc/${pid}/mem`, "r+");
  const { runs, dataOffset } = await readIndex(source);
  let offset = dataOffset;
  const pieces = runs.flatMap((run) => {
    const address = addressOf(mappings, run);
    return Array.from({ length: Math.ceil(run.pageCount / pagesPerWrite) }, (_, at) => {
      const bytes = Math.min(pagesPerWrite, run.pageCount - at * pagesPerWrite) * pageBytes;
      offset += bytes;
      return { bytes, from: offset - bytes, to: address + at * pagesPerWrite * pageBytes };
    });
  });
  let next = 0;
  const worker = async () => {
    const buffer = Buffer.allocUnsafe(pagesPerWrite * pageBytes);
    for (let piece = pieces[next++]; piece; piece = pieces[next++]) {
      await readExactly(source, buffer, piece.bytes, piece.from);
      await writeExactly(memory, buffer, piece.bytes, piece.to);
    }
  };
  // The files may be closed only when no worker uses them any more.
  await allSettledOrThrow(Array.from({ length: writersAtOnce }, worker));
}

async function mappingsOf(pid: number, path: string): Promise<Mapping[]> {
  const mappings = parseMappings(await readFile(`/proc/${pid}/maps`, "utf8"), path);
  if (mappings.length === 0) throw new DomainError("machine_failed", `process ${pid} does not map ${path}`);
  return mappings;
}

async function findRuns(pagemap: FileHandle, mapping: Mapping): Promise<PlacedRun[]> {
  const entries = Buffer.allocUnsafe(pagesPerStep * 8);
  const totalPages = (mapping.endAddress - mapping.startAddress) / pageBytes;
  const changed: PageRun[] = [];
  for (let step = 0; step < totalPages; step += pagesPerStep) {
    const length = Math.min(pagesPerStep, totalPages - step) * 8;
    await readExactly(pagemap, entries, length, (mapping.startAddress / pageBytes + step) * 8);
    for (const { firstPage, pageCount } of findChangedPages(entries.subarray(0, length))) {
      changed.push({ firstPage: step + firstPage, pageCount });
    }
  }
  return bridgeGaps(changed).map(({ firstPage, pageCount }) => ({
    firstPage: mapping.fileOffset / pageBytes + firstPage,
    pageCount,
    address: mapping.startAddress + firstPage * pageBytes,
  }));
}

/** Joins runs that are at most {@link bridgedPages} apart. Pure; `runs` ascend. */
export function bridgeGaps(runs: readonly PageRun[]): PageRun[] {
  const joined: PageRun[] = [];
  for (const run of runs) {
    const last = joined.at(-1);
    if (last && run.firstPage - (last.firstPage + last.pageCount) <= bridgedPages) {
      joined[joined.length - 1] = { ...last, pageCount: run.firstPage + run.pageCount - last.firstPage };
    } else joined.push(run);
  }
  return joined;
}

/** The file's content in the blocks over which its digest is defined. Each block is a buffer of its own. */
async function* blocksOf(runs: readonly PlacedRun[], memory: FileHandle): AsyncGenerator<Buffer> {
  const index = encodeIndex(runs);
  let block = Buffer.allocUnsafe(blockBytes);
  let filled = 0;
  for (let done = 0; done < index.length; ) {
    const bytes = index.copy(block, filled, done);
    done += bytes;
    filled += bytes;
    if (filled < blockBytes) continue;
    yield block;
    [block, filled] = [Buffer.allocUnsafe(blockBytes), 0];
  }
  for (const { address, pageCount } of runs) {
    for (let done = 0; done < pageCount * pageBytes; ) {
      const bytes = Math.min(blockBytes - filled, pageCount * pageBytes - done);
      await readExactly(memory, block.subarray(filled), bytes, address + done);
      done += bytes;
      filled += bytes;
      if (filled < blockBytes) continue;
      yield block;
      [block, filled] = [Buffer.allocUnsafe(blockBytes), 0];
    }
  }
  if (filled > 0) yield block.subarray(0, filled);
}

function encodeIndex(runs: readonly PageRun[]): Buffer {
  const index = Buffer.alloc(roundUp(headBytes + runs.length * runBytes));
  index.writeUInt32LE(magic, 0);
  index.writeUInt32LE(format, 4);
  index.writeUInt32LE(runs.length, 8);
  for (const [at, { firstPage, pageCount }] of runs.entries()) {
    index.writeUInt32LE(firstPage, headBytes + at * runBytes);
    index.writeUInt32LE(pageCount, headBytes + at * runBytes + 4);
  }
  return index;
}

async function readIndex(source: FileHandle): Promise<{ runs: PageRun[]; dataOffset: number }> {
  const head = Buffer.alloc(headBytes);
  await readExactly(source, head, headBytes, 0);
  const count = head.readUInt32LE(8);
  if (head.readUInt32LE(0) !== magic || head.readUInt32LE(4) !== format || count * runBytes > maxIndexBytes) {
    throw new DomainError("machine_failed", "the snapshot's memory changes are of an unknown format");
  }
  const index = Buffer.alloc(count * runBytes);
  await readExactly(source, index, index.length, headBytes);
  const runs = Array.from({ length: count }, (_, at) => ({
    firstPage: index.readUInt32LE(at * runBytes),
    pageCount: index.readUInt32LE(at * runBytes + 4),
  }));
  return { runs, dataOffset: roundUp(headBytes + index.length) };
}

function addressOf(mappings: readonly Mapping[], { firstPage, pageCount }: PageRun): number {
  const [start, end] = [firstPage * pageBytes, (firstPage + pageCount) * pageBytes];
  for (const { startAddress, endAddress, fileOffset } of mappings) {
    if (start >= fileOffset && end <= fileOffset + endAddress - startAddress) return startAddress + start - fileOffset;
  }
  throw new DomainError("machine_failed", "the snapshot's memory changes lie outside of the VM's memory");
}

async function writeExactly(handle: FileHandle, buffer: Buffer, length: number, position: number): Promise<void> {
  for (let done = 0; done < length; ) {
    const { bytesWritten } = await handle.write(buffer, done, length - done, position + done);
    if (bytesWritten === 0) throw new DomainError("machine_failed", "the VM's memory cannot be written");
    done += bytesWritten;
  }
}

const roundUp = (bytes: number) => Math.ceil(bytes / pageBytes) * pageBytes;
