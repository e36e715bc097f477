/**
 * The collector on a disk that is nearly full: artifacts that nothing needs go first, then new work is refused with the
 * figures, and old work goes on.
 */
import { existsSync } from "node:fs";
import { mkdir, readFile, symlink, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ArtifactCollector } from "../../../src/runtime/capacity/artifact-collector.ts";
import { type DiskFloors, DiskPressureGuard } from "../../../src/runtime/capacity/disk-guard.ts";
import { registerCacheUser } from "../../../src/template/assets/cache.ts";
import { UploadCache } from "../../../src/template/uploads/cache.ts";
import { FakeDaemon } from "../../support/fakes/fake-daemon.ts";

const oldHash = "0".repeat(64);

/**
 * A cache with two versions of each asset, the newer installed, and an upload; one snapshot needs the older disk.
 */
async function openCache(daemon: FakeDaemon, assetsFolder = join(daemon.folder, "cache", "assets")) {
  const { deps, folder, clock } = daemon;
  const cacheDir = join(folder, "cache");
  await mkdir(cacheDir);
  if (assetsFolder !== join(cacheDir, "assets")) await symlink(assetsFolder, join(cacheDir, "assets"));
  const at = (...path: string[]) => join(assetsFolder, ...path);
  const assets = {
    kernel: at("kernel", "6.1_bb", "vmlinuz"),
    kernelVersion: "6.1",
    initramfs: at("initramfs-bb.cpio"),
    agent: at("agent", "agent-bb"),
    baseDisk: at("rootfs", "base-cc.ext4"),
  };
  const old = {
    kernel: at("kernel", "6.1_aa"),
    initramfs: at("initramfs-aa.cpio"),
    agent: at("agent", "agent-aa"),
    unused: at("rootfs", "base-aa.ext4"),
  };
  const needed = at("rootfs", "base-bb.ext4");
  for (const each of ["kernel/6.1_aa", "kernel/6.1_bb", "rootfs", "agent"]) await mkdir(at(each), { recursive: true });
  await mkdir(join(cacheDir, "uploads"));
  const upload = join(cacheDir, "uploads", oldHash);
  const files = [
    assets.kernel,
    assets.initramfs,
    assets.baseDisk,
    assets.agent,
    old.initramfs,
    old.agent,
    old.unused,
    needed,
    upload,
  ];
  for (const path of [...files, join(old.kernel, "vmlinuz")]) await writeFile(path, "x");
  await writeFile(at("assets.json"), JSON.stringify(assets));
  const longAgo = new Date(clock.nowMs() - 86_400_000);
  for (const path of [...files, old.kernel, at("kernel", "6.1_bb")]) await utimes(path, longAgo, longAgo);
  const manifest = join(deps.snapshotsFolder, "base", "manifest.json");
  const text = await readFile(manifest, "utf8");
  // In the format of before, which names its images by their paths.
  const earlier = { ...JSON.parse(text), formatVersion: 1, dependsOn: [needed] };
  await writeFile(manifest, JSON.stringify(earlier));
  const uploads = new UploadCache({ folder: join(cacheDir, "uploads"), secret: "s", clock });
  const options = { ...deps, assets, uploads, cacheDir, stateDir: folder, collectTemplates: async () => {} };
  return { cacheDir, collector: new ArtifactCollector(options), old: [...Object.values(old), upload], needed, assets };
}

const never = async () => false;
const there = (paths: readonly string[]) => paths.filter((path) => existsSync(path));

test("old images, kernels and uploads go; installed and needed ones stay", async () => {
  await using daemon = await FakeDaemon.open();
  const { collector, old, needed, assets } = await openCache(daemon);
  await collector.collect(never);
  expect(there(old)).toEqual([]);
  const kept = [needed, assets.kernel, assets.initramfs, assets.baseDisk, assets.agent];
  expect(there(kept)).toEqual(kept);
});

test("a needed asset stays where the assets are a link to those of another cache", async () => {
  await using daemon = await FakeDaemon.open();
  const elsewhere = join(daemon.folder, "elsewhere");
  const { collector, old, needed, assets } = await openCache(daemon, elsewhere);
  await collector.collect(never);
  expect(there(old)).toEqual([]);
  const kept = [needed, assets.kernel, assets.initramfs, assets.baseDisk, assets.agent];
  expect(there(kept)).toEqual(kept);
});

test("no more goes than it takes, and young artifacts stay", async () => {
  await using daemon = await FakeDaemon.open();
  const { collector, old } = await openCache(daemon);
  let left = 2;
  await collector.collect(async () => left-- === 0);
  expect(there(old)).toHaveLength(old.length - 2);
});

test("engines that no snapshot and no machine names go, and in a cache that is shared they stay", async () => {
  await using daemon = await FakeDaemon.open();
  const { host, folder, clock } = daemon;
  const { collector, cacheDir } = await openCache(daemon);
  const atMs = clock.nowMs() - 86_400_000;
  const copy = async (name: string, version: string, isCached: boolean) => {
    const path = join(isCached ? cacheDir : folder, name);
    await mkdir(path);
    host.engines.push({ folder: path, version, isCached, atMs });
    return path;
  };
  // Version 1.0.0 made the snapshot of `base`.
  const needed = await copy("qemu_1.0.0_aa", "1.0.0", false);
  const [unneeded, cached] = [await copy("qemu_0.9.0_aa", "0.9.0", false), await copy("qemu_0.9.0_aa", "0.9.0", true)];
  const running = await copy("qemu_0.8.0_aa", "0.8.0", false);
  host.filesInUse = [running];
  await collector.collect(never);
  expect(there([needed, unneeded, cached, running])).toEqual([needed, running]);
  host.engines.length = 0;
  const again = await copy("qemu_0.7.0_aa", "0.7.0", true);
  const other = join(folder, "other");
  await mkdir(other);
  await writeFile(join(other, "ledger.db"), "");
  await registerCacheUser(join(cacheDir, "assets"), other);
  await clock.advance(60_000);
  await collector.collect(never);
  expect(there([again])).toEqual([again]);
});

test("no file of a cache goes while another state folder uses it", async () => {
  await using daemon = await FakeDaemon.open();
  const { collector, old, cacheDir } = await openCache(daemon);
  const other = join(daemon.folder, "other");
  await mkdir(other);
  await writeFile(join(other, "ledger.db"), "");
  await registerCacheUser(join(cacheDir, "assets"), other);
  await registerCacheUser(join(cacheDir, "assets"), daemon.folder);
  await collector.collect(never);
  expect(there(old)).toEqual(old);
});

test("when the needs cannot be read nothing goes, and the work that asked sees no error of it", async () => {
  await using daemon = await FakeDaemon.open();
  const { collector, old, cacheDir } = await openCache(daemon);
  await writeFile(join(cacheDir, "assets", "assets.json"), "{");
  await collector.collect(never);
  expect(there(old)).toEqual(old);
});

test("old files in quarantine go, but never a damaged snapshot that a sandbox or template names", async () => {
  await using daemon = await FakeDaemon.open();
  await daemon.restart(() => writeFile(join(daemon.folder, "machines", "core"), ""));
  const { collector } = await openCache(daemon);
  const { id } = (await daemon.create()).record;
  await daemon.pause(id);
  const { snapshotId } = daemon.runtime.registry.get(id).record;
  await writeFile(join(daemon.deps.snapshotsFolder, snapshotId, "disk"), "short");
  await expect(daemon.runtime.resumes.connect(id, 1)).rejects.toThrow(snapshotId);
  await collector.collect(never);
  expect(daemon.deps.quarantine.list()).toHaveLength(2);
  await daemon.clock.advance(86_400_000);
  await collector.collect(never);
  expect(daemon.deps.quarantine.list()).toMatchObject([{ id: snapshotId, kind: "snapshot" }]);
});

test.each<[DiskFloors, number, string[]]>([
  [{}, 9.9, ["restore", "save", "refill"]],
  [{}, 10, ["refill"]],
  [{}, 20, []],
  [{ restoreMiB: 1024 }, 1.5, ["refill"]],
  [{ saveMiB: 1024 * 30 }, 25, ["save"]],
  [{ refillMiB: 1024 }, 1.5, ["restore", "save"]],
])("floors %j with %d GiB free of 200 refuse %j", async (floors, freeGiB, refused) => {
  const space = { freeBytes: freeGiB * 2 ** 30, totalBytes: 200 * 2 ** 30 };
  const guard = new DiskPressureGuard("/state", floors, async () => space);
  for (const work of ["restore", "save", "refill"] as const) {
    const admitted = await guard.admit("work", work).catch((error: unknown) => error);
    if (!refused.includes(work)) expect(admitted).toBeUndefined();
    else expect(admitted).toMatchObject({ code: "disk_pressure", details: { freeBytes: space.freeBytes } });
  }
});

test("a collection makes room for the work that asked", async () => {
  const space = { freeBytes: 1, totalBytes: 2 ** 40 };
  const guard = new DiskPressureGuard("/state", {}, async () => space);
  let calls = 0;
  guard.collectWith(async (isEnough) => {
    calls += 1;
    expect(await isEnough()).toBe(false);
    space.freeBytes = 2 ** 39;
    expect(await isEnough()).toBe(true);
  });
  await guard.admit("create a sandbox");
  await guard.admit("create another");
  expect(calls).toBe(1);
});
