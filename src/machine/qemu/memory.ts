/**
 * The memory of a VM as a file. A restored VM maps its snapshot's image privately, so the pages it changed are the
 * anonymous pages of that mapping, and an image of its memory is the old one with those pages laid over it. `cp` copies
 * in bulk in a process of its own (by reflink, or `copy_file_range` over the data extents of the sparse image). All
 * other reads and writes are asynchronous and in small steps, so that they do not hold up the daemon.
 */
import { execFile } from "node:child_process";
import { type FileHandle, open, readFile } from "node:fs/promises";
import { promisify } from "node:util";
import { DomainError, messageOf } from "../../errors.ts";

const run = promisify(execFile);

export const pageBytes = 4096;
/** Pages of one step: 32 MiB of guest memory, 64 KiB of pagemap. */
const pagesPerStep = 8192;
/** Longest run of pages copied in one step. */
const pagesPerCopy = 256;

/** A piece of a process's address space that shows a file. */
export interface Mapping {
  readonly startAddress: number;
  readonly endAddress: number;
  readonly fileOffset: number;
}

/** Consecutive changed pages, counted from the start of the pagemap that was read. */
export interface PageRun {
  readonly firstPage: number;
  readonly pageCount: number;
}

/** The mappings of `path` in the text of `/proc/PID/maps`. A file that was unlinked meanwhile counts too. */
export function parseMappings(maps: string, path: string): Mapping[] {
  const mappings: Mapping[] = [];
  for (const line of maps.split("\n")) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ \d+ +(.*?)(?: \(deleted\))?$/.exec(line);
    if (match?.[4] !== path) continue;
    const [startAddress, endAddress, fileOffset] = match.slice(1, 4).map((digits) => Number.parseInt(digits, 16));
    if (startAddress === undefined || endAddress === undefined || fileOffset === undefined) continue;
    mappings.push({ startAddress, endAddress, fileOffset });
  }
  return mappings;
}

/**
 * The pages that are no longer the file's: in memory (bit 63) or swapped out (bit 62), and not file-backed (bit 61).
 * @param pagemap little-endian 64-bit entries of `/proc/PID/pagemap`
 */
export function findChangedPages(pagemap: Buffer): PageRun[] {
  const runs: PageRun[] = [];
  const count = Math.floor(pagemap.length / 8);
  let first = -1;
  for (let page = 0; page <= count; page++) {
    const high = page < count ? pagemap.readUInt32LE(page * 8 + 4) : 0;
    const changed = (high & 0xc0000000) !== 0 && (high & 0x20000000) === 0;
    if (changed && first < 0) first = page;
    if (!changed && first >= 0) {
      runs.push({ firstPage: first, pageCount: page - first });
      first = -1;
    }
  }
  return runs;
}

/** Copies a file into a new one. Holes stay holes; `dig` also makes holes of blocks that hold only zeros. */
export async function copySparse(source: string, target: string, dig = false): Promise<void> {
  try {
    await run("cp", ["--reflink=auto", `--sparse=${dig ? "always" : "auto"}`, "--", source, target]);
  } catch (error) {
    throw new DomainError("machine_failed", `cannot copy ${source}: ${messageOf(error)}`, {}, { cause: error });
  }
}

/**
 * Writes the memory of a paused process, which maps `mappedPath` privately, into the new file `target`.
 * @returns how many pages differed
 * @throws DomainError `machine_failed` when the process does not map the file
 */
export async function writeMemoryImage(pid: number, mappedPath: string, target: string): Promise<number> {
  const mappings = parseMappings(await readFile(`/proc/${pid}/maps`, "utf8"), mappedPath);
  if (mappings.length === 0) throw new DomainError("machine_failed", `process ${pid} does not map ${mappedPath}`);
  await copySparse(mappedPath, target);
  const handles: FileHandle[] = [];
  try {
    for (const [path, flags] of [
      [`/proc/${pid}/pagemap`, "r"],
      [`/proc/${pid}/mem`, "r"],
      [target, "r+"],
    ] as const) {
      handles.push(await open(path, flags));
    }
    const [pagemap, memory, image] = handles;
    if (!pagemap || !memory || !image) throw new DomainError("internal", "three files were opened");
    let changed = 0;
    for (const mapping of mappings) changed += await copyChangedPages({ pagemap, memory, image }, mapping);
    return changed;
  } finally {
    await Promise.all(handles.map((handle) => handle.close()));
  }
}

interface ImageFiles {
  readonly pagemap: FileHandle;
  readonly memory: FileHandle;
  readonly image: FileHandle;
}

async function copyChangedPages({ pagemap, memory, image }: ImageFiles, mapping: Mapping): Promise<number> {
  const entries = Buffer.alloc(pagesPerStep * 8);
  const content = Buffer.alloc(pagesPerCopy * pageBytes);
  const totalPages = (mapping.endAddress - mapping.startAddress) / pageBytes;
  let changed = 0;
  for (let step = 0; step < totalPages; step += pagesPerStep) {
    const length = Math.min(pagesPerStep, totalPages - step) * 8;
    await readExactly(pagemap, entries, length, (mapping.startAddress / pageBytes + step) * 8);
    for (const { firstPage, pageCount } of findChangedPages(entries.subarray(0, length))) {
      changed += pageCount;
      for (let done = 0; done < pageCount; done += pagesPerCopy) {
        const bytes = Math.min(pagesPerCopy, pageCount - done) * pageBytes;
        const offset = (step + firstPage + done) * pageBytes;
        await readExactly(memory, content, bytes, mapping.startAddress + offset);
        await image.write(content, 0, bytes, mapping.fileOffset + offset);
      }
    }
  }
  return changed;
}

/** Reads `length` bytes. @throws DomainError `machine_failed` when there are fewer */
export async function readExactly(handle: FileHandle, buffer: Buffer, length: number, position: number): Promise<void> {
  for (let done = 0; done < length; ) {
    const { bytesRead } = await handle.read(buffer, done, length - done, position + done);
    if (bytesRead === 0) throw new DomainError("machine_failed", "the VM's memory ended early");
    done += bytesRead;
  }
}

/** Bytes of the process's memory that no other process shares: anonymous pages, from `smaps_rollup`. */
export async function readAnonymousBytes(pid: number): Promise<number> {
  const match = /^Anonymous:\s+(\d+) kB$/m.exec(await readFile(`/proc/${pid}/smaps_rollup`, "utf8"));
  if (!match?.[1]) throw new DomainError("machine_failed", `the kernel does not tell the memory of process ${pid}`);
  return Number(match[1]) * 1024;
}
