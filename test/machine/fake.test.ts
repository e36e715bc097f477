import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { afterEach, beforeEach, expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { connectGuestAgent } from "../../src/guest/connect.ts";
import { readSnapshot } from "../../src/machine/snapshot-files.ts";
import { FakeDriver, FakeHost } from "../support/fakes/fake-driver.ts";
import type { FakeGuest } from "../support/fakes/fake-guest.ts";
import { localAgent } from "../support/guest/local-agent.ts";

const shape = { vcpuCount: 1, memoryMiB: 64, diskMiB: 64 };
const bootRequest = { sessionId: "s1", shape, kernel: "/k", initramfs: "/i", baseDisk: "/b" };

let folder = "";
let host = new FakeHost();
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "firkin-fake-"));
  host = new FakeHost();
});
afterEach(async () => {
  for (const sessionId of [...host.machines.keys()]) host.crash(sessionId);
  await rm(folder, { recursive: true });
});

const driverOf = (guest: FakeGuest) => new FakeDriver({ host, machinesFolder: folder, guest });

test("a snapshot is a real folder that restores to a machine of the same shape", async () => {
  const driver = driverOf({ kind: "silent" });
  const vm = await driver.boot(bootRequest);
  await vm.pause();
  const manifest = await vm.saveSnapshot(join(folder, "snapshot"), { bootId: "b" });
  expect(await readSnapshot(join(folder, "snapshot"))).toEqual(manifest);
  await vm.terminate();
  const restored = await driver.restore({ sessionId: "s2", snapshotFolder: join(folder, "snapshot"), manifest });
  expect(host.machines.size).toBe(1);
  await restored.terminate();
  await restored.terminate();
  expect([host.machines.size, host.openLinks]).toEqual([0, 0]);
  expect(await readdir(folder)).toEqual(["snapshot"]);
});

test("arranged failures come once, in order, and leave nothing", async () => {
  const driver = driverOf({ kind: "silent" });
  const failure = new DomainError("machine_failed", "no memory");
  host.arrange("boot", { error: failure }, { delayMs: 5 });
  await expect(driver.boot(bootRequest)).rejects.toBe(failure);
  expect(host.machines.size).toBe(0);
  const vm = await driver.boot(bootRequest);
  host.arrange("terminate", { error: failure });
  await expect(vm.terminate()).rejects.toBe(failure);
  expect(host.machines.size).toBe(1);
  await vm.terminate();
  expect(host.calls).toEqual(["boot", "boot", "terminate", "terminate"]);
});

test("a delayed step can be given up", async () => {
  host.arrange("restore", { delayMs: 60_000 });
  const booted = await driverOf({ kind: "silent" }).boot(bootRequest);
  await booted.pause();
  const manifest = await booted.saveSnapshot(join(folder, "snapshot"), { bootId: "b" });
  const request = { sessionId: "s2", snapshotFolder: join(folder, "snapshot"), manifest };
  const restoring = driverOf({ kind: "silent" }).restore(request, AbortSignal.timeout(10));
  await expect(restoring).rejects.toThrow();
  expect(host.machines.size).toBe(1);
});

test("machines outlive the driver and are adopted by the next one until they crash", async () => {
  const vm = await driverOf({ kind: "silent" }).boot(bootRequest);
  await vm.openGuestLink();
  await vm.release();
  const next = driverOf({ kind: "silent" });
  const adopted = await next.adopt(vm.record);
  expect(adopted?.record).toEqual(vm.record);
  host.crash("s1", "out of luck");
  expect(await adopted?.exited).toEqual({ reason: "died", detail: "out of luck" });
  expect(await next.adopt(vm.record)).toBeUndefined();
  await expect(adopted?.openGuestLink()).rejects.toMatchObject({ code: "machine_failed" });
});

test("a new link ends the one before", async () => {
  const vm = await driverOf({ kind: "scripted", connect: () => new PassThrough() }).boot(bootRequest);
  const first = await vm.openGuestLink();
  const second = await vm.openGuestLink();
  expect([first.destroyed, second.destroyed]).toEqual([true, false]);
});

test.each(["silent", "garbage"] as const)("a %s guest is no agent", async (kind) => {
  const vm = await driverOf({ kind }).boot(bootRequest);
  const connecting = vm.openGuestLink().then((link) => connectGuestAgent(link, { deadlineMs: 50 }));
  await expect(connecting).rejects.toBeInstanceOf(DomainError);
});

test("the real agent answers over one link after another", async () => {
  const vm = await driverOf({ kind: "agent", command: localAgent() }).boot(bootRequest);
  for (let round = 0; round < 3; round++) {
    const agent = await connectGuestAgent(await vm.openGuestLink(), { deadlineMs: 60_000 });
    await agent.ping();
    agent.close();
  }
  await vm.terminate();
});
