/** The files of a checkpoint, in a snapshot and in a machine's folder. */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { SnapshotFile, SnapshotManifest } from "../../../src/machine/driver.ts";
import { placeCheckpoint } from "../../../src/machine/gvisor/checkpoint.ts";

let root = "";
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "firkin-checkpoint-"));
  for (const folder of ["snapshot", "machine", "machine/agent"]) await mkdir(join(root, folder));
});
afterEach(() => rm(root, { recursive: true }));

async function file(name: string): Promise<SnapshotFile> {
  await writeFile(join(root, "snapshot", name), name);
  return { name, sizeBytes: name.length, sha256: "0".repeat(64) };
}

async function place(memory: string, moreFiles?: SnapshotFile[]): Promise<SnapshotFile[]> {
  const files = { memory: await file(memory), devices: await file("agent") };
  const manifest = { files, ...(moreFiles ? { moreFiles } : {}) } as unknown as SnapshotManifest;
  return placeCheckpoint(join(root, "snapshot"), manifest, files, join(root, "machine"));
}

const placed = async () => (await readdir(join(root, "machine/restored"))).sort();

test("a snapshot of before, whose memory is one file, is placed under runsc's name and has no files of pages", async () => {
  expect(await place("memory.img")).toEqual([]);
  expect(await placed()).toEqual(["checkpoint.img"]);
  expect(await readFile(join(root, "machine/restored/checkpoint.img"), "utf8")).toBe("memory.img");
  expect(await readFile(join(root, "machine/agent/agent"), "utf8")).toBe("agent");
});

test("files of pages are placed under their names, and known by their index", async () => {
  const more = [await file("pages_meta.img"), await file("pages.img"), await file("pages-1.img")];
  expect((await place("checkpoint.img", more)).map(({ name }) => name)).toEqual(["pages.img", "pages-1.img"]);
  expect(await placed()).toEqual(["checkpoint.img", "pages-1.img", "pages.img", "pages_meta.img"]);
});
