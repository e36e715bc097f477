/** Packed layers: what `tar` writes is read, and the other way round, and a damaged or hostile archive is refused. */
import { execFileSync, spawnSync } from "node:child_process";
import {
  closeSync,
  fsyncSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";

const source = fileURLToPath(new URL("archiver.c", import.meta.url));
const block = 4096;
let root = "";
const at = (name: string) => join(root, name);

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "firkin-archive-"));
  const checks = ["-Wall", "-Wextra", "-Werror", "-g", "-fsanitize=address,undefined"];
  execFileSync("cc", [...checks, "-o", at("archiver"), source]);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Writes a sparse image with data in some of its blocks. */
function makeImage(sizeBytes: number, dataBlocks: readonly number[]): void {
  const image = openSync(at("disk.ext4"), "w");
  ftruncateSync(image, sizeBytes);
  for (const number of dataBlocks) writeSync(image, Buffer.alloc(block, 1 + (number % 255)), 0, block, number * block);
  closeSync(image);
}

function archive(how: "pack" | "unpack", from: string, to: string): string {
  const { status, stdout, stderr } = spawnSync(at("archiver"), [how, at(from), at(to)], { encoding: "utf8" });
  expect(stderr).toBe("");
  expect(status).toBe(stdout === "" ? 0 : 1);
  return stdout.trim();
}

const tar = (...args: string[]) => execFileSync("tar", ["--directory", root, ...args]);
/** Compares the data, and how much of it there is: comparing all holes of a large image takes a minute. */
function expectSame(one: string, other: string, blocks: readonly number[]): void {
  expect(statSync(at(one)).size).toBe(statSync(at(other)).size);
  // The file system has some blocks of its own.
  expect(statSync(at(one)).blocks * 512).toBeLessThanOrEqual(blocks.length * block + (64 << 10));
  const files = [one, other].map((name) => openSync(at(name), "r"));
  for (const number of blocks) {
    const [left, right] = files.map((file) => {
      const bytes = Buffer.alloc(block);
      readSync(file, bytes, 0, block, number * block);
      return bytes;
    });
    expect(left?.equals(right ?? Buffer.alloc(0))).toBe(true);
  }
  for (const file of files) closeSync(file);
}
const every = (step: number, count: number) => Array.from({ length: count }, (_, n) => n * step);

test.each([
  { what: "a few runs and a hole at its end", sizeBytes: 64 << 20, blocks: [3, 4, 900] },
  { what: "as many runs as a header holds", sizeBytes: 64 * block, blocks: [1, 3, 5, 63] },
  { what: "runs in several blocks of them", sizeBytes: 1 << 30, blocks: every(31, 100) },
  { what: "nothing in it", sizeBytes: 1 << 20, blocks: [] },
  { what: "no hole", sizeBytes: 8 * block, blocks: every(1, 8) },
  { what: "data behind 8 GiB", sizeBytes: 20 * 2 ** 30, blocks: [0, 4_000_000] },
])("an image with $what is the same after it was packed and unpacked, by us or by tar", ({ sizeBytes, blocks }) => {
  makeImage(sizeBytes, blocks);
  expect(archive("pack", "disk.ext4", "own.tar")).toBe("");
  tar("--create", "--sparse", "--file", at("theirs.tar"), "disk.ext4");
  for (const from of ["own.tar", "theirs.tar"]) {
    expect(archive("unpack", from, "unpacked")).toBe("");
    expectSame("unpacked", "disk.ext4", blocks);
  }
  execFileSync("mv", [at("disk.ext4"), at("original")]);
  tar("--extract", "--file", at("own.tar"));
  expectSame("disk.ext4", "original", blocks);
});

test("an image whose reading makes data of what was none is packed as it was listed", () => {
  const image = openSync(at("disk.ext4"), "w");
  ftruncateSync(image, 8 << 20);
  // Reserved and never written: a hole, until the pages behind the data before it were read ahead.
  execFileSync("fallocate", ["--keep-size", "--length", String(512 << 10), at("disk.ext4")]);
  writeSync(image, Buffer.alloc(64 << 10, "A"), 0, 64 << 10, 0);
  writeSync(image, Buffer.alloc(64 << 10, "Z"), 0, 64 << 10, 4 << 20);
  fsyncSync(image);
  closeSync(image);
  execFileSync("dd", [`if=${at("disk.ext4")}`, "iflag=nocache", "count=0"], { stdio: "ignore" });
  expect(archive("pack", "disk.ext4", "own.tar")).toBe("");
  expect(archive("unpack", "own.tar", "unpacked")).toBe("");
  expect(spawnSync("cmp", [at("disk.ext4"), at("unpacked")], { encoding: "utf8" }).stdout).toBe("");
});

/** Changes bytes of a header, and makes its sum right again. */
function change(bytes: Buffer, offset: number, text: string): Buffer {
  const changed = Buffer.from(bytes);
  changed.write(text, offset, "latin1");
  changed.write(" ".repeat(8), 148, "latin1");
  const sum = changed.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  changed.write(`${sum.toString(8).padStart(6, "0")}\0`, 148, "latin1");
  return changed;
}

const octal = (number: number) => `${number.toString(8).padStart(11, "0")}\0`;
const [packedBytes, kind, firstRun, secondRun, fileBytes] = [124, 156, 386, 410, 483] as const;

test.each<{ what: string; damage: (bytes: Buffer) => Buffer; says: string }>([
  { what: "that is empty", damage: () => Buffer.alloc(0), says: "it has no header" },
  {
    what: "whose header has changed",
    damage: (bytes) => Buffer.from(bytes).fill(1, 0, 1),
    says: "its header is damaged",
  },
  {
    what: "of another file",
    damage: (bytes) => change(bytes, 0, "../../etc"),
    says: "it is the archive of something else",
  },
  { what: "of a link", damage: (bytes) => change(bytes, kind, "2"), says: "it is the archive of no file" },
  { what: "that ends in its data", damage: (bytes) => bytes.subarray(0, 3000), says: "the data cannot be copied" },
  {
    what: "with data of no run",
    damage: (bytes) => change(bytes, packedBytes, octal(1 << 20)),
    says: "some of its data is missing",
  },
  {
    what: "with a run behind its end",
    damage: (bytes) => change(bytes, secondRun, octal(2 ** 32)),
    says: "a run is outside of the file",
  },
  {
    what: "with a run before the last",
    damage: (bytes) => change(bytes, secondRun, octal(0)),
    says: "a run is outside of the file",
  },
  {
    what: "with a run of half a block",
    damage: (bytes) => change(bytes, firstRun + 12, octal(100)),
    says: "a run is outside of the file",
  },
  {
    what: "with more in a run than it has",
    damage: (bytes) => change(bytes, firstRun + 12, octal(1 << 19)),
    says: "a run is outside of the file",
  },
  { what: "with a run that is no number", damage: (bytes) => change(bytes, firstRun, "z"), says: "a run is no number" },
  {
    what: "with a size that no file has",
    damage: (bytes) => change(bytes, fileBytes, `\x80${"\x7f".repeat(11)}`),
    says: "its header is damaged",
  },
  {
    what: "with more runs than it lists",
    damage: (bytes) => change(bytes, 482, "\x01").subarray(0, 512),
    says: "a run is missing",
  },
])("an archive $what is refused", ({ damage, says }) => {
  makeImage(1 << 20, [1, 9]);
  expect(archive("pack", "disk.ext4", "good.tar")).toBe("");
  writeFileSync(at("bad.tar"), damage(readFileSync(at("good.tar"))));
  expect(archive("unpack", "bad.tar", "unpacked")).toBe(says);
});
