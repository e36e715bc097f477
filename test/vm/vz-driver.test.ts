/**
 * The vz engine: the suite of all engines, on the simulated framework, or on a Mac (`scripts/verify-macos`) on the real one.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { pino } from "pino";
import { expect, test } from "vitest";
import { VzDriver, type VzDriverOptions } from "../../src/machine/vz/driver.ts";
import { type ConformanceEngine, conformance } from "../machine/conformance.ts";
import { missingForSimulation, simulateFramework } from "../support/simulated-framework.ts";

/** What `scripts/verify-macos` names: the signed helper, and a guest for arm64. */
const {
  FIRKIN_VZ_HELPER: helper,
  FIRKIN_VZ_KERNEL: kernel = "",
  FIRKIN_VZ_INITRAMFS: initramfs = "",
  FIRKIN_VZ_DISK: baseDisk = "",
} = process.env;
const onMac = helper === undefined ? undefined : { helper, kernel, initramfs, baseDisk };

const engine: ConformanceEngine = {
  name: "vz",
  title: onMac ? "the vz engine" : "the vz engine on the simulated framework",
  missing: onMac ? undefined : await missingForSimulation(),
  shape: { vcpuCount: 2, memoryMiB: 512, diskMiB: 640 },
  savesProcesses: onMac !== undefined,
  open: async (root) => {
    const { helper, kernel, initramfs, baseDisk } = onMac ?? (await simulateFramework(join(root, "mac")));
    const guest = { kernel, initramfs, baseDisk };
    const options = { machinesFolder: join(root, "m"), cacheFolder: join(root, "cache"), helper, ...guest };
    return { driver: await VzDriver.open({ ...options, log: pino({ level: "silent" }) }), guest, options };
  },
};

conformance(engine, (world) => {
  test("the fan-out of one save was tried and is remembered", async () => {
    const { driver, options } = world();
    expect(driver.info.abilities.fanOut).toEqual({ supported: true });
    const again = await VzDriver.open({ ...(options as unknown as VzDriverOptions), log: pino({ level: "silent" }) });
    expect(again.info).toEqual(driver.info);
  });

  test("a snapshot of another host is refused", async () => {
    const { restore, snapshotFolder, manifest } = world();
    const machine = { ...manifest.machine, hostId: "another" };
    await expect(restore(snapshotFolder, { ...manifest, machine })).rejects.toMatchObject({
      code: "failed_precondition",
      message: expect.stringContaining("another host"),
    });
  });

  test("a network that leads nowhere says so, and why", async () => {
    const vm = await world().restore();
    await vm.setInternetAccess(false);
    await expect(vm.setInternetAccess(true)).rejects.toMatchObject({ code: "unsupported" });
    await vm.terminate();
  });

  test.skipIf(onMac)("where one save is one machine, that is found out, and a second one is refused", async () => {
    const { root } = world();
    const { helper, kernel, initramfs, baseDisk } = await simulateFramework(join(root, "mac2"), { fanOut: false });
    const guest = { kernel, initramfs, baseDisk };
    const folders = { machinesFolder: join(root, "m2"), cacheFolder: join(root, "cache2") };
    const driver = await VzDriver.open({ ...folders, ...guest, helper, log: pino({ level: "silent" }) });
    expect(driver.info.abilities.fanOut).toMatchObject({
      supported: false,
      reason: expect.stringContaining("a second machine of one save was refused"),
    });
    expect(await readdir(folders.machinesFolder)).toEqual([]);
  });
});
