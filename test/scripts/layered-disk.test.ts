/** The disk that is another one with files added, as debugfs writes it. */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { fileTime, layerDisk } from "../../scripts/setup/layered-disk.mjs";

let folder: string;
const context = { signal: new AbortController().signal, onLine: () => {} };
const ask = (image: string, command: string) =>
  execFileSync("debugfs", ["-R", command, image], { encoding: "utf8", stdio: "pipe" });

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "firkin-disk-"));
  mkdirSync(join(folder, "base/usr/local"), { recursive: true });
  writeFileSync(join(folder, "base/usr/local/there"), "of base");
  const image = ["-q", "-t", "ext4", "-d", join(folder, "base"), join(folder, "base.ext4"), "8M"];
  execFileSync("mke2fs", image, { stdio: "pipe" });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const layer = (tree: string, image: string) =>
  layerDisk(
    { from: join(folder, "base.ext4"), tree: join(folder, tree), image: join(folder, image), scratch: folder },
    context,
  );

test("files are added with their modes and one time, and what was there stays", async () => {
  const many = join(folder, "tree/usr/local/lib/many files");
  mkdirSync(many, { recursive: true });
  for (let index = 0; index < 500; index++) writeFileSync(join(many, `file ${index}`), `${index}`);
  writeFileSync(join(folder, "tree/usr/local/program"), "run", { mode: 0o755 });
  await layer("tree", "new.ext4");
  const image = join(folder, "new.ext4");
  expect(ask(image, "cat /usr/local/there")).toBe("of base");
  expect(ask(image, 'cat "/usr/local/lib/many files/file 499"')).toBe("499");
  expect(ask(image, "ls -p /usr/local")).toContain("/100755/0/0/program/3/");
  expect(ask(image, "stat /usr/local/program")).toContain(`mtime: 0x${fileTime.toString(16)}`);
  expect(ask(join(folder, "base.ext4"), "ls /usr/local")).not.toContain("program");
});

test("a tree that a disk cannot hold is refused", async () => {
  mkdirSync(join(folder, "links"));
  symlinkSync("/nowhere", join(folder, "links/link"));
  await expect(layer("links", "no.ext4")).rejects.toThrow("neither a file nor a folder");
  mkdirSync(join(folder, "large"));
  writeFileSync(join(folder, "large/file"), Buffer.alloc(16 << 20, 1));
  await expect(layer("large", "full.ext4")).rejects.toThrow("debugfs cannot write");
  expect(readFileSync(join(folder, "base.ext4")).length).toBe(8 << 20);
});
