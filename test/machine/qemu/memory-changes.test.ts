/** The memory changes of processes that map a file privately and stand in for VMs, saved and loaded. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { bridgeGaps, loadMemoryChanges, saveMemoryChanges } from "../../../src/machine/qemu/memory-changes.ts";
import { describeFile } from "../../../src/machine/snapshot-files.ts";

const pageBytes = 4096;
const pages = 2048;

/**
 * Maps the file, writes a letter into every named page, reports that, and writes its view of the file out on request.
 */
const mapper = `
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv) {
  size_t size = ${pages * pageBytes};
  int fd = open(argv[1], O_RDWR);
  char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  for (int at = 3; at < argc; at++) memset(memory + atol(argv[at]) * ${pageBytes}, 'A' + at % 26, ${pageBytes});
  if (write(1, "r", 1) != 1 || getchar() == EOF) return 1;
  FILE *view = fopen(argv[2], "w");
  fwrite(memory, 1, size, view);
  fclose(view);
  return write(1, "d", 1) != 1;
}`;

let folder = "";
let image = "";
const started: ChildProcess[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "firkin-changes-"));
  await writeFile(join(folder, "mapper.c"), mapper);
  execFileSync("cc", ["-o", join(folder, "mapper"), join(folder, "mapper.c")]);
  image = join(folder, "memory.img");
  await writeFile(
    image,
    Buffer.concat(Array.from({ length: pages }, (_, page) => Buffer.alloc(pageBytes, page % 251))),
  );
});
afterAll(async () => {
  for (const child of started) child.kill("SIGKILL");
  await rm(folder, { recursive: true });
});

async function map(changed: readonly number[], view: string) {
  const child = spawn(join(folder, "mapper"), [image, join(folder, view), ...changed.map(String)]);
  started.push(child);
  await once(child.stdout, "data");
  return {
    pid: child.pid ?? 0,
    view: async () => {
      child.stdin.end("x");
      await once(child.stdout, "data");
      return readFile(join(folder, view));
    },
  };
}

test.each([
  ["nothing", []],
  ["one page", [7]],
  ["the ends", [0, pages - 1]],
  ["pages near and far", [1, 2, 5, 30, 31, 500, 1999]],
  ["long runs", [...Array.from({ length: 700 }, (_, at) => at + 100), 1500]],
])("what one process changed is what another gets: %s", async (name, changed) => {
  const saver = await map(changed, "saved");
  const file = `${name.replaceAll(" ", "-")}.bin`;
  const described = await saveMemoryChanges(saver.pid, image, { folder, name: file });
  expect(described).toEqual(await describeFile(folder, file));
  expect(described.sizeBytes).toBeLessThan((changed.length * 5 + 2) * pageBytes);
  const loader = await map([], "loaded");
  await loadMemoryChanges(loader.pid, image, join(folder, file));
  expect((await loader.view()).equals(await saver.view())).toBe(true);
});

test("changes that are damaged or of a larger image are refused", async () => {
  const { pid } = await map([], "never");
  const path = join(folder, "bad.bin");
  const index = (...numbers: number[]) => Buffer.from(Uint32Array.from([0x434d4b46, 1, ...numbers]).buffer);
  for (const bytes of [Buffer.alloc(0), Buffer.alloc(4096), index(1, pages, 1), index(1, 0, 4), index(2 ** 31)]) {
    await writeFile(path, bytes);
    await expect(loadMemoryChanges(pid, image, path)).rejects.toMatchObject({ code: "machine_failed" });
  }
  await expect(loadMemoryChanges(pid, "/no/such/image", path)).rejects.toMatchObject({ code: "machine_failed" });
});

test("runs that are close become one, and no page is lost", () => {
  expect(bridgeGaps([])).toEqual([]);
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 }))), (shape) => {
      let page = 0;
      const runs = shape.map(([gap, pageCount]) => {
        const run = { firstPage: page + gap, pageCount };
        page = run.firstPage + pageCount;
        return run;
      });
      const joined = bridgeGaps(runs);
      const isCovered = (at: number) =>
        joined.some(({ firstPage, pageCount }) => at >= firstPage && at < firstPage + pageCount);
      for (const { firstPage, pageCount } of runs) {
        for (let at = firstPage; at < firstPage + pageCount; at++) expect(isCovered(at)).toBe(true);
      }
      for (const [at, run] of joined.entries()) {
        const before = joined[at - 1];
        if (before) expect(run.firstPage - before.firstPage - before.pageCount).toBeGreaterThan(4);
      }
    }),
  );
});
