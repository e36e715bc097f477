/** Disk layers, with a fake `qemu-img`. */
import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { emptyLayer } from "../../../src/machine/qemu/disk.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "firkin-disk-"));
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(folder, { recursive: true, force: true });
});

/** Puts a `qemu-img` in the path that begins the file it is asked for, and then runs `then`. */
async function installQemuImg(then: string): Promise<void> {
  const path = join(folder, "qemu-img");
  await writeFile(path, `#!/bin/sh\nshift 6\necho begun > "$1"\n${then}\n`);
  await chmod(path, 0o755);
  vi.stubEnv("PATH", `${folder}:${process.env.PATH}`);
}

test("an empty layer is made once for each size", async () => {
  await installQemuImg('echo "$2" >> "$1"');
  const cache = join(folder, "cache");
  const path = await emptyLayer(cache, 512);
  expect(await readFile(path, "utf8")).toBe("begun\n512M\n");
  await installQemuImg("exit 1");
  expect(await emptyLayer(cache, 512)).toBe(path);
  expect(await readdir(cache)).toEqual(["empty-layer-512.qcow2"]);
});

test("a layer that a full disk keeps from being finished is removed", async () => {
  await installQemuImg('echo "No space left on device" >&2; exit 1');
  const cache = join(folder, "cache");
  await expect(emptyLayer(cache, 512)).rejects.toMatchObject({
    code: "machine_failed",
    message: /^cannot make a disk layer: .*No space left on device/s,
  });
  expect(await readdir(cache)).toEqual([]);
});
