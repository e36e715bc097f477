/** The files of the set-up: each one is whole or missing, even after an interruption. */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { placeAtomically, requireFreeSpace, sweepPartials } from "../../scripts/setup/files.mjs";
import { resolveModules } from "../../scripts/setup/kernel.mjs";
import { listedStartTime, runningSetUp, takeSetupLock } from "../../scripts/setup/lock.mjs";
import { storageRoots, takeRootFlags } from "../../scripts/setup/roots.mjs";
import { readStamp, writeStamp } from "../../scripts/setup/stamps.mjs";

const never = new AbortController().signal;
let folder: string;

beforeEach(() => {
  folder = fs.mkdtempSync(join(tmpdir(), "firkin-files-"));
});
afterEach(() => {
  fs.rmSync(folder, { recursive: true, force: true });
});

test("a failure while a file is made leaves neither the file nor a part of it", async () => {
  const making = placeAtomically(join(folder, "a"), (partial) => {
    fs.writeFileSync(partial, "half");
    throw new Error("broken");
  });
  await expect(making).rejects.toThrow("broken");
  expect(fs.readdirSync(folder)).toEqual([]);
});

test("a folder replaces the one before it, whole", async () => {
  for (const name of ["old", "new"]) {
    await placeAtomically(join(folder, "dist"), (partial) => {
      fs.mkdirSync(partial);
      fs.writeFileSync(join(partial, name), "");
    });
  }
  expect(fs.readdirSync(folder)).toEqual(["dist"]);
  expect(fs.readdirSync(join(folder, "dist"))).toEqual(["new"]);
});

test("leftovers of dead processes are swept, those of living ones stay", () => {
  const { pid: dead } = spawnSync("true");
  for (const pid of [dead, process.pid]) fs.mkdirSync(join(folder, `dist.${pid}.partial`));
  fs.writeFileSync(join(folder, "dist"), "");
  sweepPartials(folder);
  expect(fs.readdirSync(folder).sort()).toEqual(["dist", `dist.${process.pid}.partial`]);
});

test("a disk that is too small is refused with the sizes and a way out", () => {
  expect(() => requireFreeSpace(join(folder, "not/there/yet"), 2 ** 60)).toThrow(
    /GiB are free .* needs 1073741824.0 GiB/,
  );
});

test("a stamp counts only for its recipe, and while the files that it names exist", async () => {
  const roots = storageRoots({ FIRKIN_CACHE_DIR: folder });
  const file = join(folder, "image");
  fs.writeFileSync(file, "");
  await writeStamp(roots, "step", "recipe", { file, modules: [file], version: "1" });
  expect(readStamp(roots, "step", "recipe")).toEqual({ file, modules: [file], version: "1" });
  expect(readStamp(roots, "step", "another")).toBeUndefined();
  fs.rmSync(file);
  expect(readStamp(roots, "step", "recipe")).toBeUndefined();
});

test("the second set-up waits for the first; the lock of an ended set-up does not count", async () => {
  fs.symlinkSync(`${spawnSync("true").pid}:1`, join(folder, "setup.lock"));
  const unlock = await takeSetupLock(folder, { signal: never, onWait: () => expect.unreachable() });
  const holders: number[] = [];
  expect(runningSetUp(folder)).toBe(process.pid);
  const second = takeSetupLock(folder, {
    signal: never,
    onWait: (holder) => {
      holders.push(holder);
      unlock();
    },
  });
  (await second)();
  expect(holders).toEqual([process.pid]);
  expect(fs.readdirSync(folder)).toEqual([]);
});

test("the holder of the lock is known by the same start in every time zone", () => {
  const starts = ["UTC", "America/New_York", "Asia/Tokyo"].map((zone) => {
    vi.stubEnv("TZ", zone);
    return listedStartTime(process.pid);
  });
  vi.unstubAllEnvs();
  expect(new Set(starts).size).toBe(1);
  expect(starts[0]).toMatch(/ \d{4}$/);
});

test("modules come after their dependencies, and built-in ones are left out", () => {
  const write = (name: string, depends: string) =>
    fs.writeFileSync(join(folder, `${name}.ko`), `ELF\0depends=${depends}\0`);
  write("virtio_net", "virtio,net-failover,builtin");
  write("net_failover", "failover");
  write("failover", "");
  write("virtio", "");
  const names = resolveModules(folder, ["virtio-net", "virtio"]).map((path) => path.slice(folder.length + 1));
  expect(names).toEqual(["virtio.ko", "failover.ko", "net_failover.ko", "virtio_net.ko"]);
  expect(() => resolveModules(folder, ["ext5"])).toThrow("no module ext5");
});

test("flags move the storage roots, and TMPDIR does not", () => {
  const env: NodeJS.ProcessEnv = { TMPDIR: "/elsewhere" };
  expect(takeRootFlags(["serve", "--state-dir", "/s", "--port", "1", "--cache-dir=/c"], env)).toEqual([
    "serve",
    "--port",
    "1",
  ]);
  expect(storageRoots(env)).toMatchObject({ state: "/s", cache: "/c", assets: "/c/assets" });
  expect(storageRoots({ TMPDIR: "/elsewhere" }).cache).toMatch(/\/\.firkin\/cache$/);
  expect(() => takeRootFlags(["--state-dir"], env)).toThrow("needs a folder");
});
