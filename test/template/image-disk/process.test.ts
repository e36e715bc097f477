/** The process that makes a disk: what it tells, and that it leaves nothing when it ends early. */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import type * as module from "../../../src/template/image-disk/process.ts";
import { cannotMount } from "../../support/faults/small-disk.ts";
import { digestOf } from "../../support/images/make-image.ts";
import { makeTar } from "../../support/images/tar.ts";

// The process runs the compiled program, as the daemon does.
const compiled = new URL("../../../dist/src/template/image-disk/process.js", import.meta.url).href;
const { makeDiskInProcess } = (await import(compiled)) as typeof module;

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "firkin-process-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function make(
  content: Buffer,
  { target = join(folder, "disk"), signal = new AbortController().signal, mayGoOn = async () => {} } = {},
) {
  const layer = makeTar([
    { path: "bin/bash", content: "bash", mode: 0o755 },
    { path: "large", content },
  ]);
  await writeFile(join(folder, "layer"), layer);
  const lines: string[] = [];
  const order = {
    layers: [{ path: join(folder, "layer"), sizeBytes: layer.length, diffId: digestOf(layer) }],
    target,
    envs: {},
    limits: { maxEntries: 1000, maxDiskMiB: 4096 },
    minDiskMiB: 128,
    minFreeMiB: 16,
  };
  const made = await makeDiskInProcess(order, (line) => void lines.push(line), signal, mayGoOn);
  return { made, lines };
}

test("it tells of each layer, and zeros of a file take no room on the host", async () => {
  const { made, lines } = await make(Buffer.alloc(100 * 2 ** 20));
  expect(made.filled).toContain("the account user, 1000");
  expect(lines).toContain("Layers extracted");
  const { size, blocks } = await stat(join(folder, "disk"));
  expect(size).toBe(made.diskMiB * 2 ** 20);
  expect(blocks * 512).toBeLessThan(40 * 2 ** 20);
  execFileSync("e2fsck", ["-f", "-n", join(folder, "disk")], { stdio: "ignore" });
});

test("a host with too little free disk ends it while it writes", async () => {
  let looks = 0;
  const mayGoOn = async () => {
    looks += 1;
    throw new Error("the floor is reached");
  };
  await expect(make(randomBytes(80 * 2 ** 20), { mayGoOn })).rejects.toThrow("the floor is reached");
  expect(looks).toBe(1);
  expect(await readdir(folder)).toEqual(["layer"]);
});

test("a build that is cancelled ends it", async () => {
  const cancel = new AbortController();
  const making = make(randomBytes(80 * 2 ** 20), {
    signal: cancel.signal,
    mayGoOn: async () => cancel.abort(new Error("gone")),
  });
  await expect(making).rejects.toThrow("gone");
  expect(await readdir(folder)).toEqual(["layer"]);
});

test.skipIf(cannotMount)("a disk that is full is named, and nothing is left on it", async () => {
  const small = join(folder, "small");
  await mkdir(small);
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=8m", "firkin-test", small]);
  try {
    const making = make(randomBytes(20 * 2 ** 20), { target: join(small, "disk") });
    await expect(making).rejects.toMatchObject({ code: "disk_pressure", message: /became full/ });
    expect(await readdir(small)).toEqual([]);
  } finally {
    execFileSync("umount", [small]);
  }
});
