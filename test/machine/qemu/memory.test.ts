import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import {
  copySparse,
  findChangedPages,
  pageBytes,
  parseMappings,
  writeMemoryImage,
} from "../../../src/machine/qemu/memory.ts";

const present = 1n << 63n;
const swapped = 1n << 62n;
const fileBacked = 1n << 61n;
const softDirty = 1n << 55n;

function pagemap(...entries: bigint[]): Buffer {
  const buffer = Buffer.alloc(entries.length * 8);
  for (const [index, entry] of entries.entries()) buffer.writeBigUInt64LE(entry, index * 8);
  return buffer;
}

test("changed pages are pages in memory or swapped out that are not the file's", () => {
  const map = pagemap(
    0n,
    present,
    present | 0x1234n,
    present | fileBacked,
    swapped,
    swapped | fileBacked,
    softDirty,
    present,
  );
  expect(findChangedPages(map)).toEqual([
    { firstPage: 1, pageCount: 2 },
    { firstPage: 4, pageCount: 1 },
    { firstPage: 7, pageCount: 1 },
  ]);
  expect(findChangedPages(Buffer.alloc(0))).toEqual([]);
});

test("runs cover exactly the changed pages, in order, and never touch", () => {
  fc.assert(
    fc.property(fc.array(fc.boolean(), { maxLength: 200 }), (changed) => {
      const runs = findChangedPages(pagemap(...changed.map((is) => (is ? present : present | fileBacked))));
      const covered = new Set(
        runs.flatMap((run) => Array.from({ length: run.pageCount }, (_, i) => run.firstPage + i)),
      );
      expect(changed.map((_, page) => covered.has(page))).toEqual(changed);
      for (const [index, run] of runs.entries()) {
        const before = runs[index - 1];
        if (before) expect(before.firstPage + before.pageCount).toBeLessThan(run.firstPage);
      }
    }),
  );
});

test("mappings are found by path, split ones and unlinked files included", () => {
  const maps = [
    "55d0c0000000-55d0c0001000 r--p 00000000 fe:00 123                        /usr/bin/qemu",
    "7f0000000000-7f0008000000 rw-p 00000000 fe:00 99                         /s/m 1/memory.img",
    "7f0008000000-7f0010000000 rw-p 08000000 fe:00 99                         /s/m 1/memory.img (deleted)",
    "7f0010000000-7f0010001000 rw-p 00000000 00:00 0 ",
    "7f0020000000-7f0020001000 rw-p 00000000 fe:00 98                         /s/m 1/memory.img.other",
  ].join("\n");
  expect(parseMappings(maps, "/s/m 1/memory.img")).toEqual([
    { startAddress: 0x7f0000000000, endAddress: 0x7f0008000000, fileOffset: 0 },
    { startAddress: 0x7f0008000000, endAddress: 0x7f0010000000, fileOffset: 0x8000000 },
  ]);
});

test("the image of a process that maps nothing is refused", async () => {
  await expect(writeMemoryImage(process.pid, "/no/such/image", "/no/such/target")).rejects.toMatchObject({
    code: "machine_failed",
  });
});

test("digging makes holes of zeros and changes no byte", async () => {
  const folder = await mkdtemp(join(tmpdir(), "firkin-memory-"));
  try {
    const content = Buffer.alloc(256 * pageBytes);
    content.write("first page");
    await writeFile(join(folder, "from"), content);
    await copySparse(join(folder, "from"), join(folder, "to"), true);
    expect((await readFile(join(folder, "to"))).equals(content)).toBe(true);
    expect((await stat(join(folder, "to"))).blocks * 512).toBeLessThan(content.length / 2);
    await expect(copySparse(join(folder, "none"), join(folder, "to"))).rejects.toMatchObject({
      code: "machine_failed",
    });
  } finally {
    await rm(folder, { recursive: true });
  }
});
