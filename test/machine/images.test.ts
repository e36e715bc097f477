import { mkdir, mkdtemp, readdir, readFile, rename, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { Images } from "../../src/machine/images.ts";

const openImages = (cache: string) => Images.open(cache, join(cache, "images"));

async function openCache() {
  const cache = await mkdtemp(join(tmpdir(), "firkin-images-"));
  onTestFinished(() => rm(cache, { recursive: true, force: true }));
  await mkdir(join(cache, "assets", "rootfs"), { recursive: true });
  const path = join(cache, "assets", "rootfs", "base-aa.ext4");
  await writeFile(path, "the base disk");
  return { cache, path, images: await openImages(cache) };
}

test("an image is found by its content, by another daemon too, and is read once", async () => {
  const { cache, path, images } = await openCache();
  const image = await images.identify(path);
  expect(image).toMatchObject({ name: "base-aa.ext4", sizeBytes: 13 });
  expect(await images.find(image)).toBe(path);
  const entries = await readdir(join(cache, "images"));
  expect(entries).toHaveLength(1);
  // What the index says is believed while the file is as it was: the next daemon does not read it.
  const entry = join(cache, "images", entries[0] ?? "");
  const forged = (await readFile(entry, "utf8")).replace(image.sha256, "f".repeat(64));
  await writeFile(entry, forged);
  const next = await openImages(cache);
  expect((await next.identify(path)).sha256).toBe("f".repeat(64));
});

test("a cache that was moved is searched by content", async () => {
  const { cache, path, images } = await openCache();
  const image = await images.identify(path);
  const moved = `${cache}-moved`;
  await rename(cache, moved);
  onTestFinished(() => rm(moved, { recursive: true, force: true }));
  const next = await openImages(moved);
  await writeFile(join(moved, "assets", "rootfs", "base-zz.ext4"), "the base DISK");
  expect(await next.find(image)).toBe(join(moved, "assets", "rootfs", "base-aa.ext4"));
});

test("an image that was changed in place is not taken for the old one", async () => {
  const { cache, path, images } = await openCache();
  const image = await images.identify(path);
  await writeFile(path, "THE base disk");
  await utimes(path, 1, 1);
  const failure = { code: "failed_precondition", message: expect.stringContaining("the image base-aa.ext4") };
  await expect(images.find(image)).rejects.toMatchObject(failure);
  await expect((await openImages(cache)).find(image)).rejects.toMatchObject(failure);
  expect((await images.identify(path)).sha256).not.toBe(image.sha256);
  await writeFile(join(cache, "assets", "put-back"), "the base disk");
  expect(await images.find(image)).toBe(join(cache, "assets", "put-back"));
});

test("paths of parents are those of both formats, without what is nowhere", async () => {
  const { path, images } = await openCache();
  const image = await images.identify(path);
  const gone = { ...image, sha256: "0".repeat(64) };
  expect(await images.pathsOf([{ path: "/k" }, image, gone])).toEqual(["/k", path]);
});

test("an image that is not there says so, and an index that is garbled is made anew", async () => {
  const { cache, path, images } = await openCache();
  await expect(images.identify(join(cache, "none"))).rejects.toMatchObject({ code: "not_found" });
  images.prepare(join(cache, "none"));
  await images.identify(path);
  const [entry = ""] = await readdir(join(cache, "images"));
  await writeFile(join(cache, "images", entry), "{");
  const next = await openImages(cache);
  expect(await next.find(await next.identify(path))).toBe(path);
});
