/**
 * The vz engine: the conformance suite of all engines, and tests of this engine alone. They run on the simulated
 * framework, or on a Mac (`scripts/verify/verify-macos`) on the real one.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pino } from "pino";
import { expect, test } from "vitest";
import { findProcessesIn, signalProcess } from "../../src/machine/processes.ts";
import { VzDriver, type VzDriverOptions } from "../../src/machine/vz/driver.ts";
import { type ConformanceEngine, conformance } from "../machine/conformance.ts";
import { missingForSimulation, simulateFramework } from "../support/fakes/simulated-framework.ts";

/** The signed helper and a guest for arm64, as `scripts/verify/verify-macos` names them. */
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
  test("the fan-out of one snapshot was tried, and its result is remembered", async () => {
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

  test("a network that leads nowhere is refused with the reason", async () => {
    const vm = await world().restore();
    await vm.setInternetAccess(false);
    await expect(vm.setInternetAccess(true)).rejects.toMatchObject({ code: "unsupported" });
    await vm.terminate();
  });

  test.skipIf(onMac)(
    "a helper that dies while paused, saving or restoring ends that alone, and leaves nothing",
    async () => {
      const { root, driver, machinesFolder, snapshotFolder, manifest, options, restore, expectNothingLeft } = world();
      const { helper } = options as unknown as VzDriverOptions;
      const kill = (folder: string) => {
        for (const found of findProcessesIn(folder, "vm", "firkin-vz")) signalProcess(found, "SIGKILL");
      };
      const settings = await readFile(`${helper}.simulated.json`, "utf8");
      await writeFile(`${helper}.simulated.json`, JSON.stringify({ ...JSON.parse(settings), saveMs: 20_000 }));
      const vm = await restore();
      await writeFile(`${helper}.simulated.json`, settings);
      await vm.pause();
      const saving = vm.saveSnapshot(join(root, "cut"), { bootId: "" });
      await expect.poll(() => readdir(root)).toContain("cut.staging");
      kill(vm.record.folder);
      await expect(saving).rejects.toMatchObject({ code: "machine_failed" });
      expect((await readdir(root)).filter((name) => name.startsWith("cut"))).toEqual([]);
      const paused = await restore();
      await paused.pause();
      kill(paused.record.folder);
      for (const dead of [vm, paused]) {
        expect(await dead.exited).toMatchObject({ reason: "died", detail: expect.stringContaining("SIGKILL") });
        await dead.terminate();
        await expectNothingLeft(dead);
      }
      const holder = spawn("flock", [`/var/tmp/firkin-vz-${process.getuid?.()}.lock`, "cat"], {
        stdio: ["pipe", "pipe", "ignore"],
      });
      holder.stdin.write("held");
      await once(holder.stdout, "data");
      try {
        const restoring = driver.restore({ sessionId: "waits", snapshotFolder, manifest });
        restoring.catch(() => {});
        await expect.poll(() => readdir(join(machinesFolder, "waits")).catch(() => [])).toContain("disk.img");
        kill(join(machinesFolder, "waits"));
        await expect(restoring).rejects.toMatchObject({ code: "machine_failed" });
        expect(await readdir(machinesFolder)).toEqual([]);
      } finally {
        holder.stdin.end();
      }
    },
  );

  test.skipIf(onMac)(
    "a host where one snapshot starts one machine is found out by a second machine that is refused",
    async () => {
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
    },
  );
});
