/**
 * The vz engine: the conformance suite of all engines, and tests of this engine alone. They run on the simulated
 * framework, or on a Mac (`scripts/verify/verify-macos`) on the real one.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { findProcessesIn, signalProcess } from "../../src/machine/processes.ts";
import { VzDriver, type VzDriverOptions } from "../../src/machine/vz/driver.ts";
import { conformance } from "../machine/conformance.ts";
import { quiet, realEngine, realMac, simulatedEngine } from "./vz-engine.ts";

const engine = realEngine() ?? (await simulatedEngine("as a Mac is expected to be"));

conformance(engine, (world) => {
  test("the fan-out of one snapshot was tried, and its result is remembered", async () => {
    const { driver, options } = world();
    const { fanOut } = driver.info.abilities;
    if (realMac) console.log(`fan-out on this Mac: ${fanOut.supported ? "works" : fanOut.reason}`);
    else expect(fanOut).toMatchObject({ supported: false, reason: expect.stringContaining("a second machine") });
    const again = await VzDriver.open({ ...(options as unknown as VzDriverOptions), log: quiet });
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

  test.skipIf(realMac)(
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
});
