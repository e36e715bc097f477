/** The save of a machine over the fake engine: its order, and what is left of a save that fails. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { saveMachine } from "../../src/guest-machine/save.ts";
import { newSnapshotPlace } from "../../src/machine/snapshot-files.ts";
import { FakeDaemon } from "../support/fakes/fake-daemon.ts";

async function bootIn({ deps }: FakeDaemon) {
  const shape = { vcpuCount: 1, memoryMiB: 64, diskMiB: 64 };
  const assets = { kernel: "/k", initramfs: "/i", baseDisk: "/b" };
  return deps.driver.boot({ sessionId: "saved", shape, ...assets });
}

test("the agent is closed before the machine stands still, and the sample comes after the save", async () => {
  await using daemon = await FakeDaemon.open();
  const { clock, snapshotsFolder } = daemon.deps;
  const vm = await bootIn(daemon);
  const { folder } = newSnapshotPlace(snapshotsFolder);
  const steps: string[] = [];
  const guest = { bootId: "boot", close: () => steps.push("closed") };
  const reach = (step: string) => steps.push(step);
  const recordSample = () => steps.push("sampled");
  const facts = await saveMachine({ vm, guest }, { folder, clock, reach, recordSample });
  expect(steps).toEqual(["closed", "stopped", "saved", "sampled"]);
  expect(facts.memoryBytes).toBeGreaterThan(0);
  expect(existsSync(join(folder, "manifest.json"))).toBe(true);
  await vm.terminate();
});

test.each(["pause", "saveSnapshot"] as const)("when %s fails there is no folder", async (step) => {
  await using daemon = await FakeDaemon.open();
  const { clock, snapshotsFolder } = daemon.deps;
  const vm = await bootIn(daemon);
  const { folder } = newSnapshotPlace(snapshotsFolder);
  daemon.host.arrange(step, { error: new Error("no") });
  const saving = saveMachine({ vm, guest: { bootId: "boot" } }, { folder, clock });
  await expect(saving).rejects.toThrow("no");
  expect(existsSync(folder)).toBe(false);
  await vm.terminate();
});

test("a save whose signal is aborted closes the agent and saves nothing", async () => {
  await using daemon = await FakeDaemon.open();
  const { clock, snapshotsFolder } = daemon.deps;
  const vm = await bootIn(daemon);
  const { folder } = newSnapshotPlace(snapshotsFolder);
  let isClosed = false;
  const guest = {
    bootId: "boot",
    close: () => {
      isClosed = true;
    },
  };
  const signal = AbortSignal.abort(new Error("stopping"));
  await expect(saveMachine({ vm, guest }, { folder, clock, signal })).rejects.toThrow("stopping");
  expect([isClosed, existsSync(folder)]).toEqual([true, false]);
  await vm.terminate();
});
