/**
 * What Apple's framework does beside what it is asked for, on a simulated Mac: it refuses devices, keeps identities, goes
 * on without its helper, takes a reset for no end, and locks in the wrong moment.
 */
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { connectGuestAgent } from "../../src/guest/connect.ts";
import type { Vm } from "../../src/machine/driver.ts";
import { endProcess, isRunning, signalProcess } from "../../src/machine/processes.ts";
import { VzDriver } from "../../src/machine/vz/driver.ts";
import { shell } from "../machine/conformance.ts";
import {
  missingForSimulation,
  type SimulatedFramework,
  type SimulatedSettings,
  simulateFramework,
} from "../support/fakes/simulated-framework.ts";
import { newShortFolder } from "../support/short-folder.ts";
import { titleOf } from "../support/skipped-title.ts";
import { optionsIn, quiet } from "./vz-engine.ts";

const missing = await missingForSimulation();
const shape = { vcpuCount: 1, memoryMiB: 256, diskMiB: 640 };

describe.skipIf(missing)(titleOf("what Apple's framework does unasked, on the simulated framework", missing), () => {
  let root = "";
  let mac: SimulatedFramework;
  const open = async (settings: SimulatedSettings = {}) => {
    mac = await simulateFramework(join(root, "mac"), settings);
    return VzDriver.open({ ...optionsIn(root, mac), log: quiet });
  };
  const agentOf = async (vm: Vm) => connectGuestAgent(await vm.openGuestLink(), { deadlineMs: 60_000 });
  const engineOf = (vm: Vm) => {
    const engine = vm.record.processes.find(({ role }) => role === "vm");
    if (!engine) throw new Error("no helper");
    return engine;
  };
  const boot = (driver: VzDriver, sessionId: string) => {
    const { kernel, initramfs, baseDisk } = mac;
    return driver.boot({ sessionId, shape, kernel, initramfs, baseDisk });
  };
  beforeEach(async () => {
    root = await newShortFolder();
  });
  afterEach(() => rm(root, { recursive: true, force: true }));

  test("a device with which nothing can be restored is left out, and that is remembered", async () => {
    await using driver = await open({ refuse: ["entropy"] });
    expect(driver.info.abilities.memorySnapshot).toEqual({ supported: true });
    await using again = await VzDriver.open({ ...optionsIn(root, mac), log: quiet });
    for (const [name, each] of [driver, again].entries()) {
      const vm = await boot(each, `b${name}`);
      await vm.pause();
      const snapshotFolder = join(root, `saved-${name}`);
      const manifest = await vm.saveSnapshot(snapshotFolder, { bootId: "" });
      expect(manifest.machine).toMatchObject({ withoutDevices: ["entropy"] });
      await vm.terminate();
      const restored = await each.restore({ sessionId: `r${name}`, snapshotFolder, manifest });
      (await agentOf(restored)).close();
      await restored.terminate();
    }
  });

  test.each(["save", "restore", "pause"])(
    "a host whose framework refuses to %s is a driver that boots, and no verdict is kept",
    async (call) => {
      await using driver = await open({ refuse: [call] });
      const { memorySnapshot, fanOut } = driver.info.abilities;
      expect(memorySnapshot).toMatchObject({ supported: false, reason: expect.stringContaining(call) });
      expect(fanOut.supported).toBe(false);
      expect(existsSync(join(root, "cache/vz/fan-out.json"))).toBe(false);
      const vm = await boot(driver, "b");
      expect(await shell(await agentOf(vm), "echo booted")).toBe("booted");
      await vm.terminate();
    },
  );

  test("a host that was locked at the start is probed again, and then saves", async () => {
    mac = await simulateFramework(join(root, "mac"));
    await mac.lockScreen(true);
    await using driver = await VzDriver.open({ ...optionsIn(root, mac), log: quiet, probeAgainMs: 200 });
    const { abilities } = driver.info;
    expect(abilities.memorySnapshot).toEqual({ supported: false, reason: "the screen is locked" });
    await mac.lockScreen(false);
    await expect.poll(() => abilities.memorySnapshot, { timeout: 150_000 }).toEqual({ supported: true });
    expect(abilities.fanOut).toMatchObject({ reason: expect.stringContaining("a second machine of one save") });
  });

  test("a screen that is locked in the moment of a save is named, and the machine stays paused", async () => {
    await using driver = await open();
    const vm = await boot(driver, "b");
    await vm.pause();
    await mac.lockScreenSoon();
    const refused = vm.saveSnapshot(join(root, "saved"), { bootId: "" });
    await expect(refused).rejects.toMatchObject({
      code: "not_ready",
      message: expect.stringContaining("the screen is locked"),
    });
    expect(existsSync(join(root, "saved"))).toBe(false);
    await mac.lockScreen(false);
    await vm.saveSnapshot(join(root, "saved"), { bootId: "" });
    await vm.terminate();
  });

  test("a machine whose helper was killed goes on for a while, and a restore of its identity waits for its end", async () => {
    await using driver = await open({ lagMs: 1000 });
    const vm = await boot(driver, "b");
    await shell(await agentOf(vm), "echo note > /dev/shm/note");
    await vm.pause();
    const snapshotFolder = join(root, "saved");
    const manifest = await vm.saveSnapshot(snapshotFolder, { bootId: "" });
    await vm.terminate();
    const first = await driver.restore({ sessionId: "r1", snapshotFolder, manifest });
    signalProcess(engineOf(first), "SIGKILL");
    expect(await first.exited).toMatchObject({ reason: "died" });
    const second = await driver.restore({ sessionId: "r2", snapshotFolder, manifest });
    expect(await shell(await agentOf(second), "cat /dev/shm/note")).toBe("note");
    await Promise.all([first.terminate(), second.terminate()]);
  });

  test("a helper that is told to end in the middle of a save finishes it and ends its machine", async () => {
    await using driver = await open();
    await mac.set({ saveMs: 3000 });
    const vm = await boot(driver, "b");
    await mac.set({});
    await vm.pause();
    // The simulated framework locks this file while it saves or restores.
    const lock = join(root, "mac/save-restore");
    await rm(lock, { force: true });
    const saving = vm.saveSnapshot(join(root, "saved"), { bootId: "" });
    await expect.poll(() => existsSync(lock), { timeout: 10_000 }).toBe(true);
    await endProcess(engineOf(vm), 13_000);
    expect(isRunning(engineOf(vm))).toBe(false);
    // The save was answered before the helper ended.
    expect((await saving).files.memory).toBeDefined();
    // The end of the machine and that of its helper are told apart by chance, so close are they.
    expect(await vm.exited).toMatchObject({ detail: expect.stringMatching(/the machine is stopped|exit code 0/) });
    await vm.terminate();
  });

  test("a guest that resets itself is no end for the framework: another boot id answers", async () => {
    await using driver = await open();
    const vm = await boot(driver, "b");
    const before = await agentOf(vm);
    const reset = "perl -e 'syscall(169, 0xfee1dead, 672274793, 0x01234567, 0)'";
    await expect(shell(before, `echo kept > /root/disk; echo gone > /dev/shm/note; sync; ${reset}`)).rejects.toThrow();
    const after = await agentOf(vm);
    expect(after.bootId).not.toBe(before.bootId);
    expect(await shell(after, "cat /root/disk; test ! -e /dev/shm/note")).toBe("kept");
    await vm.terminate();
  });

  test("a console is kept when it is asked for, and saved machines have it still", async () => {
    mac = await simulateFramework(join(root, "mac"));
    await using driver = await VzDriver.open({ ...optionsIn(root, mac), log: quiet, consoles: true });
    const vm = await boot(driver, "b");
    expect(existsSync(join(vm.record.folder, "console.log"))).toBe(true);
    await vm.pause();
    const manifest = await vm.saveSnapshot(join(root, "saved"), { bootId: "" });
    await vm.terminate();
    const restored = await driver.restore({ sessionId: "r", snapshotFolder: join(root, "saved"), manifest });
    expect(existsSync(join(restored.record.folder, "console.log"))).toBe(true);
    await restored.terminate();
  });
});
