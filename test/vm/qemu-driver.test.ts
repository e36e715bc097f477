/** The qemu engine with real machines: the conformance suite of all engines, and tests of this engine alone. */
import { execFile } from "node:child_process";
import { constants } from "node:fs";
import { cp, mkdir, readdir, readFile, readlink, rm, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { pino } from "pino";
import { expect, test } from "vitest";
import { newSessionId } from "../../src/machine/driver.ts";
import { processName } from "../../src/machine/processes.ts";
import { QemuDriver } from "../../src/machine/qemu/driver.ts";
import type { QemuDriverOptions } from "../../src/machine/qemu/host.ts";
import { verifySnapshot } from "../../src/machine/snapshot-files.ts";
import { type GuestAssets, readGuestAssets } from "../../src/template/assets/guest-assets.ts";
import { type ConformanceEngine, conformance, shell } from "../machine/conformance.ts";
import { cacheDir } from "../support/daemon/real-daemon.ts";

const run = promisify(execFile);

const assets: GuestAssets | undefined = await readGuestAssets(cacheDir()).catch(() => undefined);

const engine: ConformanceEngine = {
  name: "qemu",
  title: "the qemu engine",
  missing: assets ? undefined : "there are no guest assets",
  shape: { vcpuCount: 2, memoryMiB: 512, diskMiB: 8192 },
  savesProcesses: true,
  open: async (root) => {
    if (!assets) throw new Error("there are no guest assets");
    const { kernel, initramfs, baseDisk } = assets;
    const folders = { machinesFolder: join(root, "m"), cacheFolder: cacheDir() };
    const options = { ...folders, acceleration: "auto", kernel, initramfs } as const;
    const driver = await QemuDriver.open({ ...options, log: pino({ level: "silent" }) });
    return { driver, guest: { kernel, initramfs, baseDisk }, options };
  },
};

conformance(engine, (world) => {
  test("a large disk layer becomes a shared one, and survives the snapshot it came from", async () => {
    const { root, restore, connectTo, templateBootId } = world();
    const first = await restore();
    const agent = await connectTo(first);
    const sum = await shell(agent, "head -c 40000000 /dev/urandom > /root/large; sync; md5sum < /root/large");
    agent.close();
    await first.pause();
    const large = await first.saveSnapshot(join(root, "large"), { bootId: templateBootId });
    await first.terminate();
    const vm = await restore(join(root, "large"), large);
    await rm(join(root, "large"), { recursive: true });
    const second = await connectTo(vm);
    await shell(second, "echo 3 > /proc/sys/vm/drop_caches; echo more > /root/more; sync");
    second.close();
    await vm.pause();
    const deeper = await vm.saveSnapshot(join(root, "deeper"), { bootId: templateBootId });
    expect(deeper.lowerLayers.length).toBe(1);
    expect(deeper.files.disk.sizeBytes).toBeLessThan(8 << 20);
    await vm.terminate();
    await verifySnapshot(join(root, "deeper"), deeper, "full");
    const last = await restore(join(root, "deeper"), deeper);
    const third = await connectTo(last);
    expect(await shell(third, "echo 3 > /proc/sys/vm/drop_caches; cat /root/more; md5sum < /root/large")).toBe(
      `more\n${sum}`,
    );
    await last.terminate();
    await rm(join(root, "deeper"), { recursive: true });
  });

  test("a restored machine can write its own files, and not the memory that it shares", async () => {
    const { restore } = world();
    const [one, other] = [await restore(), await restore()];
    const facts = await Promise.all(
      [one, other].map(async ({ record }) => {
        const pid = record.processes[0]?.pid ?? 0;
        const links = await readdir(`/proc/${pid}/fd`);
        const open = await Promise.all(
          links.map(async (fd) => {
            const path = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => "");
            // QEMU closes the devices' file at about this time; the name of a closed descriptor is empty, too.
            const info = await readFile(`/proc/${pid}/fdinfo/${fd}`, "utf8").catch(() => "");
            const flags = /^flags:\s+(\d+)$/m.exec(info)?.[1] ?? "";
            return {
              name: basename(path),
              mayWrite: (Number.parseInt(flags, 8) & (constants.O_WRONLY | constants.O_RDWR)) !== constants.O_RDONLY,
            };
          }),
        );
        const status = await readFile(`/proc/${pid}/status`, "utf8");
        const user = Number(/^Uid:\s+(\d+)/m.exec(status)?.[1]);
        return { open, user, files: (await readdir(`/proc/${pid}/root`)).sort() };
      }),
    );
    for (const { open, files } of facts) {
      const mayWrite = (name: string) => open.filter((file) => file.name === name).map((file) => file.mayWrite);
      expect(mayWrite("memory.img")).not.toContain(true);
      expect(mayWrite("disk.qcow2")).toContain(true);
      expect(files).not.toContain("etc");
    }
    if (process.getuid?.() === 0) {
      const users = facts.map(({ user }) => user);
      expect(new Set([...users, 0]).size).toBe(3);
      const { mode, uid } = await stat(join(one.record.folder, "memory.img"));
      expect([mode & 0o777, uid]).toEqual([0o444, 0]);
    }
    await Promise.all([one.terminate(), other.terminate()]);
  });

  test("a snapshot is restored by the version of the engine that made it, which is kept beside the installed one", async () => {
    const { root, driver, options, manifest, snapshotFolder, connectTo } = world();
    const store = join(root, "engines");
    const current = (await readdir(store)).find((name) => name.startsWith("qemu_")) ?? "";
    const before = current.replace(driver.info.version, "7.1.99");
    await cp(join(store, current), join(store, before), { recursive: true });
    // An update of the host: the next daemon finds another engine installed, and this one in its store.
    await using next = await QemuDriver.open({
      ...(options as unknown as QemuDriverOptions),
      log: pino({ level: "silent" }),
    });
    const made = { ...manifest, engineVersion: "7.1.99" };
    const vm = await next.restore({ sessionId: newSessionId(), snapshotFolder, manifest: made });
    const pid = vm.record.processes[0]?.pid ?? 0;
    const [ours, kept] = await Promise.all(
      [`/proc/${pid}/root/usr/bin/qemu-system-x86_64`, join(store, before, "usr/bin/qemu-system-x86_64")].map((path) =>
        stat(path),
      ),
    );
    expect(ours?.ino).toBe(kept?.ino);
    const agent = await connectTo(vm);
    expect(await shell(agent, "echo again")).toBe("again");
    agent.close();
    await vm.pause();
    const again = await vm.saveSnapshot(join(root, "again"), { bootId: manifest.bootId, isLast: true });
    expect(again.engineVersion).toBe("7.1.99");
    expect(await next.pathsOf(again)).toContain(join(store, before));
    expect(await next.filesInUse()).toContain(join(store, before));
    await vm.terminate();
    await rm(join(root, "again"), { recursive: true });
    const others = (await next.keptEngines()).filter(({ isCached }) => !isCached).map(({ folder }) => folder);
    expect(others).toEqual([join(store, before)]);
    expect(await next.filesInUse()).not.toContain(join(store, before));
    await next.removeEngine(join(store, before));
    expect(await readdir(store)).toEqual([current]);
    await expect(next.restore({ sessionId: newSessionId(), snapshotFolder, manifest: made })).rejects.toThrow(
      /7\.1\.99/,
    );
  });

  test("an idle machine is not woken, and under emulation its programs are always at the same addresses", async () => {
    const { driver, restore, connectTo } = world();
    const vm = await restore();
    const agent = await connectTo(vm);
    expect(await shell(agent, "cat /proc/sys/vm/compaction_proactiveness")).toBe("0");
    const isEmulated = driver.info.acceleration === "tcg";
    expect(await shell(agent, "cat /proc/sys/kernel/randomize_va_space")).toBe(isEmulated ? "0" : "2");
    const [qemu] = vm.record.processes;
    if (!qemu) throw new Error("the machine has no process");
    const wakeUps = async () => {
      const status = await readFile(`/proc/${qemu.pid}/status`, "utf8");
      return Number(/^voluntary_ctxt_switches:\s+(\d+)$/m.exec(status)?.[1]);
    };
    // An interval timer that still ran would make at least 36 wake-ups.
    const withinASecond = async () => {
      const before = await wakeUps();
      await delay(1_000);
      return (await wakeUps()) - before;
    };
    await expect.poll(withinASecond, { timeout: 30_000 }).toBeLessThan(30);
    await vm.terminate();
  });

  test("the console of a guest that powers itself off is quoted", async () => {
    const { restore, connectTo, expectNothingLeft } = world();
    const vm = await restore();
    const agent = await connectTo(vm);
    await shell(agent, "echo the last words > /dev/ttyS0");
    agent.shutdown(1000).catch(() => {});
    expect(await vm.exited).toMatchObject({ reason: "died", detail: expect.stringContaining("the last words") });
    await vm.terminate();
    await expectNothingLeft(vm);
  });

  test("a machine without internet access has a network that is switched off", async () => {
    const { driver, snapshotFolder, manifest, connectTo, nonce } = world();
    const vm = await driver.restore({ sessionId: "offline", snapshotFolder, manifest, internetAccess: false });
    const names = () => vm.record.processes.map(processName);
    expect(names()).toEqual([expect.stringMatching(/^qemu-system/), "network-off"]);
    await vm.setInternetAccess(true);
    expect(names()).toEqual([expect.stringMatching(/^qemu-system/), "network-on"]);
    expect(await shell(await connectTo(vm), "cat /dev/shm/nonce")).toBe(nonce);
    await vm.terminate();
  });

  test("a snapshot whose device state is damaged is refused and leaves nothing", async () => {
    const { root, snapshotFolder, manifest, machinesFolder, driver, restore } = world();
    const folder = join(root, "damaged");
    await mkdir(folder);
    await writeFile(join(folder, "devices.bin"), "nonsense");
    for (const name of ["memory.img", "disk.qcow2"]) await run("cp", [join(snapshotFolder, name), folder]);
    await expect(restore(folder, manifest)).rejects.toMatchObject({ code: "machine_failed" });
    await rm(folder, { recursive: true });
    expect(await readdir(machinesFolder)).toEqual([]);
    const remains = { engine: "qemu", sessionId: "x", folder: join(machinesFolder, "x"), processes: [] } as const;
    await mkdir(remains.folder);
    await driver.discard(remains);
    expect(await readdir(machinesFolder)).toEqual([]);
  });
});
