/** The seals of files that never change: what breaks one, and what the daemon's own links do to it. */
import { mkdtemp, rm, stat, unlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { isSealBroken } from "../../src/machine/file-seals.ts";
import { linkFile } from "../../src/machine/link-file.ts";

let root = "";
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "firkin-seals-"));
  await writeFile(join(root, "file"), "content");
});
afterEach(() => rm(root, { recursive: true }));

const isBroken = async () => isSealBroken(await stat(join(root, "file"), { bigint: true }));

test("a link that came and went between two looks breaks no seal", async () => {
  expect(await isBroken()).toBe(false);
  for (let machine = 0; machine < 3; machine++) {
    await linkFile(join(root, "file"), join(root, "machine"));
    await unlink(join(root, "machine"));
    expect(await isBroken()).toBe(false);
  }
});

test("another content of the same size breaks the seal, whatever its time of modification says", async () => {
  expect(await isBroken()).toBe(false);
  const { atime, mtime } = await stat(join(root, "file"));
  await writeFile(join(root, "file"), "CONTENT");
  await utimes(join(root, "file"), atime, mtime);
  expect(await isBroken()).toBe(true);
});
