import { link, mkdir, mkdtemp, open, readdir, readFile, rm, stat, truncate, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { SnapshotManifest } from "../../src/machine/driver.ts";
import {
  describeFile,
  publishSnapshot,
  readManifest,
  readSnapshot,
  removeSnapshot,
  verifySnapshot,
} from "../../src/machine/snapshot-files.ts";

let root = "";
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "firkin-snapshot-"));
});
afterEach(() => rm(root, { recursive: true }));

const memoryBytes = 3 * 2 ** 20 + 17;

async function makeSnapshot(): Promise<{ folder: string; manifest: SnapshotManifest }> {
  const [staging, folder, base] = ["s.staging", "s", "base.raw"].map((name) => join(root, name)) as [
    string,
    string,
    string,
  ];
  await mkdir(staging);
  await writeFile(base, "base");
  const memory = await open(join(staging, "memory.img"), "w");
  await memory.write(Buffer.from("start"), 0, 5, 0);
  await memory.write(Buffer.from("end"), 0, 3, memoryBytes - 3);
  await memory.close();
  await writeFile(join(staging, "devices.bin"), "devices");
  await writeFile(join(staging, "disk.qcow2"), "disk");
  await writeFile(join(staging, "layer-1.qcow2"), "layer");
  await writeFile(join(staging, "pages-1.img"), "pages");
  const manifest: SnapshotManifest = {
    formatVersion: 2,
    engine: "qemu",
    engineVersion: "7.2.22",
    acceleration: "tcg",
    cpuModel: "Haswell-noTSX",
    cpuClass: "emulated",
    shape: { vcpuCount: 2, memoryMiB: 512, diskMiB: 8192 },
    bootId: "b",
    createdAtMs: 1,
    parents: [await describeFile(root, "base.raw")],
    files: {
      memory: await describeFile(staging, "memory.img"),
      devices: await describeFile(staging, "devices.bin"),
      disk: await describeFile(staging, "disk.qcow2"),
    },
    lowerLayers: [await describeFile(staging, "layer-1.qcow2")],
    moreFiles: [await describeFile(staging, "pages-1.img")],
    machine: { anything: [1, "two"] },
  };
  await publishSnapshot(staging, folder, manifest);
  return { folder, manifest };
}

async function flipBit(path: string, offset: number): Promise<void> {
  const handle = await open(path, "r+");
  const byte = Buffer.alloc(1);
  await handle.read(byte, 0, 1, offset);
  byte[0] = (byte[0] ?? 0) ^ 4;
  await handle.write(byte, 0, 1, offset);
  await handle.close();
}

test("a published snapshot reads back as written and passes both checks", async () => {
  const { folder, manifest } = await makeSnapshot();
  expect(await readSnapshot(folder)).toEqual(manifest);
  await verifySnapshot(folder, manifest, "full");
  expect(manifest.files.memory?.sizeBytes).toBe(memoryBytes);
  expect(await readdir(root)).toEqual(["base.raw", "s"]);
});

test("the digest does not depend on how a file's zeros are stored", async () => {
  await writeFile(join(root, "dense"), Buffer.alloc(2 * 2 ** 20));
  await writeFile(join(root, "sparse"), "");
  await truncate(join(root, "sparse"), 2 * 2 ** 20);
  const [dense, sparse] = await Promise.all([describeFile(root, "dense"), describeFile(root, "sparse")]);
  expect(dense.sha256).toBe(sparse.sha256);
  await truncate(join(root, "sparse"), 2 * 2 ** 20 + 1);
  expect((await describeFile(root, "sparse")).sha256).not.toBe(dense.sha256);
});

test.each(["memory.img", "devices.bin", "disk.qcow2", "layer-1.qcow2"])(
  "a short or missing %s fails the cheap check",
  async (name) => {
    const { folder, manifest } = await makeSnapshot();
    const { size } = await stat(join(folder, name));
    await truncate(join(folder, name), size - 1);
    await expect(readSnapshot(folder)).rejects.toMatchObject({
      code: "failed_precondition",
      message: expect.stringContaining(name),
    });
    await rm(join(folder, name));
    await expect(verifySnapshot(folder, manifest, "cheap")).rejects.toThrow(`${name} is missing`);
  },
);

test.each([
  ["memory.img", 0],
  ["memory.img", 2 * 2 ** 20],
  ["memory.img", memoryBytes - 1],
  ["devices.bin", 3],
  ["layer-1.qcow2", 0],
])("a flipped bit in %s at %i fails the full check only", async (name, offset) => {
  const { folder, manifest } = await makeSnapshot();
  await flipBit(join(folder, name), offset);
  await verifySnapshot(folder, manifest, "cheap");
  await expect(verifySnapshot(folder, manifest, "full")).rejects.toThrow(`the content of ${name} has changed`);
});

test("a flipped bit in a file that was checked before fails the cheap check too, also with its old time", async () => {
  const { folder, manifest } = await makeSnapshot();
  const path = join(folder, "memory.img");
  await verifySnapshot(folder, manifest, "cheap");
  const { atime, mtime } = await stat(path);
  await flipBit(path, 0);
  await utimes(path, atime, mtime);
  await expect(verifySnapshot(folder, manifest, "cheap")).rejects.toThrow("the content of memory.img has changed");
  await flipBit(path, 0);
  await verifySnapshot(folder, manifest, "cheap");
});

test("a file that gets more names, or is touched, is not suspect for long", async () => {
  const { folder, manifest } = await makeSnapshot();
  const path = join(folder, "memory.img");
  await verifySnapshot(folder, manifest, "cheap");
  await link(path, join(root, "another name"));
  await verifySnapshot(folder, manifest, "cheap");
  await utimes(path, 1, 1);
  await verifySnapshot(folder, manifest, "cheap");
});

/** Rewrites a manifest into the format of before, which names its parents by their paths. */
async function makeEarlier(folder: string): Promise<SnapshotManifest> {
  const path = join(folder, "manifest.json");
  const { parents: _, cpuClass: __, ...manifest } = JSON.parse(await readFile(path, "utf8"));
  await writeFile(path, JSON.stringify({ ...manifest, formatVersion: 1, dependsOn: [join(root, "base.raw")] }));
  return readManifest(folder);
}

test("a snapshot of format 1 is read, and its parents are paths", async () => {
  const { folder, manifest } = await makeSnapshot();
  const earlier = await makeEarlier(folder);
  const { cpuClass: _, ...same } = manifest;
  expect(earlier).toEqual({ ...same, formatVersion: 1, parents: [{ path: join(root, "base.raw") }] });
  await verifySnapshot(folder, earlier, "full");
});

test("a snapshot of format 1 without its base image fails the cheap check", async () => {
  const { folder } = await makeSnapshot();
  const manifest = await makeEarlier(folder);
  await rm(join(root, "base.raw"));
  await expect(verifySnapshot(folder, manifest, "cheap")).rejects.toThrow("base.raw is missing");
});

test("a folder without a manifest is no snapshot", async () => {
  await expect(readManifest(root)).rejects.toMatchObject({ code: "not_found" });
});

test.each([
  ["half a file", (text: string) => text.slice(0, text.length / 2)],
  ["another format", (text: string) => text.replace('"formatVersion": 2', '"formatVersion": 3')],
  ["a name that leads elsewhere", (text: string) => text.replace('"memory.img"', '"../base.raw"')],
  ["a digest that is none", (text: string) => text.replace(/"sha256": ".*"/, '"sha256": "x"')],
  ["an endless file", (text: string) => text + " ".repeat(2 ** 20)],
])("a manifest that is %s is refused", async (_, change) => {
  const { folder } = await makeSnapshot();
  const path = join(folder, "manifest.json");
  await writeFile(path, change(await readFile(path, "utf8")));
  await expect(readManifest(folder)).rejects.toMatchObject({ code: "failed_precondition" });
});

test("publishing over an existing snapshot leaves that as it was", async () => {
  const { folder, manifest } = await makeSnapshot();
  await expect(makeSnapshot()).rejects.toThrow();
  expect(await readManifest(folder)).toEqual(manifest);
});

test("removing is idempotent", async () => {
  const { folder } = await makeSnapshot();
  await removeSnapshot(folder);
  await removeSnapshot(folder);
  expect(await readdir(root)).toEqual(["base.raw"]);
});
