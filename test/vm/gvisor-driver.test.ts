/** The gvisor engine with real machines: the conformance suite of all engines, and tests of this engine alone. */
import { execFileSync } from "node:child_process";
import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { pino } from "pino";
import { expect, test } from "vitest";
import type { SnapshotManifest, Vm } from "../../src/machine/driver.ts";
import { GvisorDriver } from "../../src/machine/gvisor/driver.ts";
import { firstFileOwner } from "../../src/machine/gvisor/users.ts";
import { describeFile, verifySnapshot } from "../../src/machine/snapshot-files.ts";
import { type GuestAssets, readGuestAssets } from "../../src/template/assets/guest-assets.ts";
import { type ConformanceEngine, type ConformanceWorld, conformance, shell } from "../machine/conformance.ts";
import { missingForGvisor, runsc } from "../support/daemon/gvisor.ts";
import { cacheDir } from "../support/daemon/real-daemon.ts";
import { diskOf } from "../support/images/disk.ts";
import { busyboxLayer } from "../support/images/families.ts";
import { makeTar } from "../support/images/tar.ts";

const assets: GuestAssets | undefined = await readGuestAssets(cacheDir()).catch(() => undefined);

const driverOptions = (folder: string) => ({
  machinesFolder: join(folder, "m"),
  cacheFolder: cacheDir(),
  agent: assets?.agent ?? "",
  runsc,
});

const engine: ConformanceEngine = {
  name: "gvisor",
  title: "the gvisor engine",
  missing: assets ? missingForGvisor() : "there are no guest assets",
  shape: { vcpuCount: 2, memoryMiB: 512, diskMiB: 8192 },
  savesProcesses: true,
  open: async (root) => {
    if (!assets) throw new Error("there are no guest assets");
    const { kernel, initramfs, baseDisk } = assets;
    const options = driverOptions(root);
    const driver = await GvisorDriver.open({ ...options, log: pino({ level: "silent" }) });
    return { driver, guest: { kernel, initramfs, baseDisk }, options };
  },
};

conformance(engine, (world) => {
  test("a save writes the memory that was used since the restore, and links what was not", async () => {
    const { root } = world();
    const filled = await world().restore();
    const agent = await world().connectTo(filled);
    const sum = await shell(agent, "head -c 100000000 /dev/urandom > /dev/shm/large; md5sum < /dev/shm/large");
    agent.close();
    const first = await saveAs(world(), filled, "first");
    const idle = await world().restore(join(root, "first"), first);
    expect(await idle.privateMemoryBytes()).toBeLessThan(50_000_000);
    (await world().connectTo(idle)).close();
    const second = await saveAs(world(), idle, "second");
    // What "first" was restored from, what it wrote, and what "second" wrote.
    const pages = (second.moreFiles ?? []).filter(({ name }) => name.startsWith("pages") && name !== "pages_meta.img");
    expect(pages.map(({ name }) => name)).toEqual(["pages.img", "pages-1.img", "pages-2.img"]);
    expect(pages[2]?.sizeBytes).toBeLessThan(20_000_000);
    const inode = async (folder: string) => (await stat(join(root, folder, "pages-1.img"))).ino;
    expect(await inode("second")).toBe(await inode("first"));
    await rm(join(root, "first"), { recursive: true });
    const last = await world().restore(join(root, "second"), second);
    expect(await shell(await world().connectTo(last), "md5sum < /dev/shm/large")).toBe(sum);
    await last.terminate();
    await rm(join(root, "second"), { recursive: true });
  });

  test("a pause of a machine that wrote much to its disk links the image, which changes no more", async () => {
    const { root } = world();
    const writer = await world().restore();
    const agent = await world().connectTo(writer);
    const sum = await shell(agent, "head -c 50000000 /dev/urandom > /root/large; md5sum < /root/large");
    agent.close();
    const { ino } = await stat(join(writer.record.folder, "disk.ext4"));
    const first = await saveAs(world(), writer, "first");
    expect((await stat(join(root, "first", first.files.disk.name))).ino).toBe(ino);
    // Above the large layer, machines have small ones of their own.
    const vms = await Promise.all([0, 1].map(() => world().restore(join(root, "first"), first)));
    for (const vm of vms) {
      const guest = await world().connectTo(vm);
      expect(await shell(guest, "md5sum < /root/large; echo more >> /root/large; tail -c 5 /root/large")).toBe(
        `${sum}\nmore`,
      );
      guest.close();
    }
    const [one, two] = vms;
    if (!one || !two) throw new Error("two machines");
    const second = await saveAs(world(), one, "second");
    await two.terminate();
    await verifySnapshot(join(root, "first"), first, "full");
    const last = await world().restore(join(root, "second"), second);
    expect(await shell(await world().connectTo(last), "tail -c 5 /root/large")).toBe("more");
    await last.terminate();
    for (const name of ["first", "second"]) await rm(join(root, name), { recursive: true });
  });

  test("a machine whose last save fails after its disk was linked writes on", async () => {
    const { root, templateBootId } = world();
    const vm = await world().restore();
    const agent = await world().connectTo(vm);
    await shell(agent, "head -c 50000000 /dev/urandom > /root/large");
    agent.close();
    await vm.pause();
    // The last step of a save is the rename to this name.
    await mkdir(join(root, "taken", "full"), { recursive: true });
    const saving = vm.saveSnapshot(join(root, "taken"), { bootId: templateBootId, isLast: true });
    await expect(saving).rejects.toThrow();
    await vm.resume();
    const again = await world().connectTo(vm);
    expect(await shell(again, "head -c 50000000 /dev/zero > /root/more; sync; wc -c < /root/more")).toBe("50000000");
    await vm.terminate();
    await rm(join(root, "taken"), { recursive: true });
  });

  test("a machine of an earlier version, whose launcher packs no disk, is saved too", async () => {
    const vm = await world().restore();
    const agent = await world().connectTo(vm);
    await shell(agent, "echo kept > /root/kept");
    agent.close();
    await rm(join(vm.record.folder, "run", "packer"));
    const manifest = await saveAs(world(), vm, "packed-by-tar");
    const folder = join(world().root, "packed-by-tar");
    const again = await world().restore(folder, manifest);
    expect(await shell(await world().connectTo(again), "cat /root/kept")).toBe("kept");
    await again.terminate();
    await rm(folder, { recursive: true });
  });

  test("a packed disk of a tar with another form of archives is restored, too", async () => {
    const vm = await world().restore();
    const agent = await world().connectTo(vm);
    await shell(agent, "echo kept > /root/kept");
    agent.close();
    const manifest = await saveAs(world(), vm, "posix");
    const folder = join(world().root, "posix");
    const at = (name: string) => ["--file", join(folder, "disk.tar"), "--directory", folder, name];
    execFileSync("tar", ["--extract", ...at("disk.ext4")]);
    execFileSync("tar", ["--create", "--sparse", "--format=posix", ...at("disk.ext4")]);
    await rm(join(folder, "disk.ext4"));
    const described = await describeFile(folder, "disk.tar");
    const again = await world().restore(folder, { ...manifest, files: { ...manifest.files, disk: described } });
    expect(await shell(await world().connectTo(again), "cat /root/kept")).toBe("kept");
    await again.terminate();
    await rm(folder, { recursive: true });
  });

  test("a machine that was restored often is saved whole again", async () => {
    let { manifest } = world();
    let folder = world().snapshotFolder;
    const counts: number[] = [];
    for (let round = 0; round < 9; round++) {
      const vm = await world().restore(folder, manifest);
      const agent = await world().connectTo(vm);
      expect(await shell(agent, "cat /dev/shm/nonce")).toBe(world().nonce);
      agent.close();
      manifest = await saveAs(world(), vm, `round-${round}`);
      folder = join(world().root, `round-${round}`);
      counts.push((manifest.moreFiles ?? []).length);
    }
    // One more file each time, until there are eight with pages; the ninth is that which says where pages are.
    expect(counts).toEqual([3, 4, 5, 6, 7, 8, 9, 2, 3]);
    for (const name of await readdir(world().root)) {
      if (name.startsWith("round-")) await rm(join(world().root, name), { recursive: true });
    }
  });

  test("where mounts cannot show files as other users', a machine stands on a copy of its base disk", async () => {
    const folder = join(world().root, "foreign");
    await mkdir(folder);
    // This file system knows no other users than those that files have.
    execFileSync("mount", ["-t", "ramfs", "none", folder]);
    const copy = join(cacheDir(), "gvisor", "bases", "disk");
    await using disk = await diskOf([
      makeTar([...busyboxLayer(), { path: "theirs", content: "x", uid: 7, mode: 0o600 }]),
    ]);
    try {
      const driver = await GvisorDriver.open({ ...driverOptions(folder), log: pino({ level: "silent" }) });
      const user = driver.info.walls?.find(({ name }) => name === "user");
      expect(user).toMatchObject({ stands: false, detail: expect.stringContaining("base disks are copied") });
      const shape = { vcpuCount: 1, memoryMiB: 256, diskMiB: 512 };
      const vm = await driver.boot({ ...world().guest, sessionId: "copied", shape, baseDisk: disk.path });
      try {
        const agent = await world().connectTo(vm);
        expect(await shell(agent, "stat -c %u /theirs; echo y >>/theirs; cat /theirs")).toBe("7\nxy");
        agent.close();
        expect((await stat(join(copy, "theirs"))).uid).toBe(firstFileOwner + 7);
      } finally {
        await vm.terminate();
      }
    } finally {
      execFileSync("umount", [folder]);
      await rm(copy, { recursive: true, force: true });
    }
  });
});

/** Saves a machine into a folder of the world, and ends it. */
async function saveAs({ root, templateBootId }: ConformanceWorld, vm: Vm, name: string): Promise<SnapshotManifest> {
  await vm.pause();
  const manifest = await vm.saveSnapshot(join(root, name), { bootId: templateBootId, isLast: true });
  await vm.terminate();
  return manifest;
}
