/** Layers unpacked: every compression, damaged ones, and ones that unpack to far too much. */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, expect, test } from "vitest";
import { unpackLayer } from "../../../src/template/image-disk/unpack.ts";
import { digestOf } from "../../support/images/make-image.ts";

const folder = mkdtempSync(join(tmpdir(), "firkin-unpack-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const zstd = (bytes: Buffer) => execFileSync("zstd", ["-q", "-c"], { input: bytes, maxBuffer: 1 << 30 });
const content = Buffer.from("some text, again and again. ".repeat(50_000));

async function unpack(packed: Buffer, diffId = digestOf(content)): Promise<Buffer> {
  const path = join(folder, "layer");
  writeFileSync(path, packed);
  const pieces: Buffer[] = [];
  await unpackLayer({ path, sizeBytes: packed.length, diffId }, (bytes) => void pieces.push(Buffer.from(bytes)));
  return Buffer.concat(pieces);
}

const half = content.length / 2;
const [first, second] = [content.subarray(0, half), content.subarray(half)];
const hasZstd = spawnSync("zstd", ["--version"]).status === 0;

test.each([
  ["plain", () => content],
  ["gzip", () => gzipSync(content)],
  ["gzip of several members", () => Buffer.concat([gzipSync(first), gzipSync(second)])],
  ["gzip with zeros behind it", () => Buffer.concat([gzipSync(content), Buffer.alloc(100)])],
])("%s", async (_, pack) => {
  expect((await unpack(pack())).equals(content)).toBe(true);
});

test.skipIf(!hasZstd)("zstd, of one frame and of several, with frames to be skipped", async () => {
  const skipped = Buffer.from("502a4d180400000000000000", "hex");
  expect((await unpack(zstd(content))).equals(content)).toBe(true);
  expect((await unpack(Buffer.concat([zstd(first), skipped, zstd(second)]))).equals(content)).toBe(true);
  expect((await unpack(Buffer.concat([skipped, zstd(content)]))).equals(content)).toBe(true);
});

test("a layer that is not what its image says is refused", async () => {
  await expect(unpack(gzipSync(Buffer.from("other")))).rejects.toThrow(
    /a layer unpacks to sha256:.* and its image says/,
  );
});

test("damaged layers are refused", async () => {
  const packed = gzipSync(content);
  await expect(unpack(packed.subarray(0, packed.length / 2))).rejects.toThrow("cannot be unpacked (gzip)");
  // As in Docker, which takes nothing for a second member either.
  await expect(unpack(Buffer.concat([packed, Buffer.from("garbage")]))).rejects.toThrow("cannot be unpacked (gzip)");
  const spoilt = Buffer.from(packed);
  spoilt.fill(0xff, 100, 120);
  await expect(unpack(spoilt)).rejects.toThrow("cannot be unpacked (gzip)");
});

test.skipIf(!hasZstd)("damaged zstd is refused with the program's own words", async () => {
  const packed = zstd(content);
  await expect(unpack(packed.subarray(0, packed.length - 20))).rejects.toThrow(
    /cannot be unpacked \(zstd\): .*premature end/,
  );
});

test("a layer that unpacks to a thousand times its size is refused before it is all there", async () => {
  const bomb = gzipSync(Buffer.alloc(200 * 2 ** 20));
  let takenBytes = 0;
  const path = join(folder, "bomb");
  writeFileSync(path, bomb);
  const layer = { path, sizeBytes: bomb.length, diffId: "" };
  const unpacking = unpackLayer(layer, ({ length }) => {
    takenBytes += length;
  });
  await expect(unpacking).rejects.toThrow("unpacks to more than");
  expect(takenBytes).toBeLessThan(150 * 2 ** 20);
});
