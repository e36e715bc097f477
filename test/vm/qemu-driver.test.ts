/** The qemu engine with real machines: the conformance suite of all engines, and tests of this engine alone. */
import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { pino } from "pino";
import { expect, test } from "vitest";
import { processName } from "../../src/machine/processes.ts";
import { QemuDriver } from "../../src/machine/qemu/driver.ts";
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
