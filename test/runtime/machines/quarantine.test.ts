/**
 * The quarantine: a starting daemon puts files that it cannot name there, lists them with a reason, and removes them
 * only on request.
 */
import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { getSnapshot } from "../../../src/ledger/snapshots.ts";
import { checkSnapshots } from "../../../src/runtime/machines/integrity.ts";
import { FakeDaemon, nothing } from "../../support/fakes/fake-daemon.ts";

const never = new AbortController().signal;
const kindsOf = ({ deps }: FakeDaemon) => deps.quarantine.list().map(({ kind, name }) => [kind, name]);

test("strange files and folders are moved away, listed, and stay through restarts until they are removed", async () => {
  await using daemon = await FakeDaemon.open();
  const { snapshotsFolder, quarantine } = daemon.deps;
  const machines = join(daemon.folder, "machines");
  await daemon.restart(async () => {
    await writeFile(join(machines, "core"), "dumped");
    await mkdir(join(machines, "backup"));
    await mkdir(join(machines, "0".repeat(32)));
    await writeFile(join(snapshotsFolder, "not\nes"), "mine");
    await cp(join(snapshotsFolder, "base"), join(snapshotsFolder, "ffffffff-0000-4000-8000-000000000000"), {
      recursive: true,
    });
  });
  expect(await daemon.remains()).toEqual(nothing);
  const found = quarantine.list();
  expect(found.map(({ kind, name, reason }) => [kind, name.slice(0, 6), reason.slice(0, 28)]).sort()).toEqual([
    ["file", "core", "it was among the machines, a"],
    ["file", "not?es", "it was among the snapshots, "],
    ["folder", "backup", "it was among the machines, a"],
    ["folder", "ffffff", "it is a whole snapshot, and "],
  ]);
  await daemon.restart();
  expect(quarantine.list()).toEqual(found);
  const [core] = found.filter(({ name }) => name === "core");
  expect(await readFile(join(daemon.folder, "quarantine", core?.id ?? ""), "utf8")).toBe("dumped");
  for (const { id } of found) await quarantine.remove(id);
  expect([quarantine.list(), await readdir(join(daemon.folder, "quarantine"))]).toEqual([[], []]);
  await expect(quarantine.remove(core?.id ?? "")).rejects.toMatchObject({ code: "not_found" });
});

test("after a start the list and the folder agree, even if a person changed one of them", async () => {
  await using daemon = await FakeDaemon.open();
  const folder = join(daemon.folder, "quarantine");
  await daemon.restart(() => writeFile(join(daemon.folder, "machines", "one"), ""));
  await daemon.restart(async () => {
    await rm(folder, { recursive: true });
    await mkdir(join(folder, "by-hand"), { recursive: true });
  });
  expect(kindsOf(daemon)).toEqual([["folder", "by-hand"]]);
});

test("a machine without an owner is listed and left alone; the removal of its entry ends it", async () => {
  await using daemon = await FakeDaemon.open();
  const { deps, host } = daemon;
  await daemon.restart(async () => {
    const request = { sessionId: "stray", kernel: "/k", initramfs: "/i", baseDisk: "/b" };
    const { record } = await deps.driver.boot({ ...request, shape: { vcpuCount: 1, memoryMiB: 1, diskMiB: 1 } });
    await rm(record.folder, { recursive: true });
  });
  await daemon.restart();
  expect([kindsOf(daemon), host.machines.size]).toEqual([[["machine", "stray"]], 1]);
  await deps.quarantine.remove(deps.quarantine.list()[0]?.id ?? "");
  expect([kindsOf(daemon), host.machines.size]).toEqual([[], 0]);
});

test("a damaged snapshot is refused by name from then on, and can go only after the sandboxes that need it", async () => {
  await using daemon = await FakeDaemon.open();
  const { deps, runtime } = daemon;
  const { id } = (await daemon.create()).record;
  await daemon.pause(id);
  const { snapshotId } = runtime.registry.get(id).record;
  await writeFile(join(deps.snapshotsFolder, snapshotId, "memory"), "short");
  await expect(runtime.resumes.connect(id, 1_000)).rejects.toMatchObject({
    code: "failed_precondition",
    message: expect.stringMatching(new RegExp(`${snapshotId} of sandbox ${id}.*memory has 5 bytes`)),
  });
  expect(runtime.registry.get(id).state).toBe("paused");
  expect(await daemon.remains()).toMatchObject({ machines: 0, reservations: 0 });
  await expect(runtime.resumes.connect(id, 1_000)).rejects.toThrow(/quarantined: .*memory has 5 bytes/);
  await daemon.restart();
  expect(kindsOf(daemon)).toEqual([["snapshot", `sandbox ${id}`]]);
  await expect(deps.quarantine.remove(snapshotId)).rejects.toMatchObject({ code: "invalid_state" });
  await daemon.runtime.ends.kill(id);
  await daemon.settle();
  expect([kindsOf(daemon), await daemon.remains()]).toEqual([[], nothing]);
});

test("a full check finds damage that a cheap one cannot, and releases a snapshot that is whole again", async () => {
  await using daemon = await FakeDaemon.open();
  const { deps } = daemon;
  const file = join(deps.snapshotsFolder, "base", "memory");
  const whole = await readFile(file);
  await checkSnapshots(deps, never);
  expect(kindsOf(daemon)).toEqual([]);
  await writeFile(file, Buffer.from(whole).fill(0x21, 0, 1));
  await checkSnapshots(deps, never);
  expect(getSnapshot(deps.ledger, "base-snapshot")).toMatchObject({
    state: "quarantined",
    quarantineReason: expect.stringContaining("the content of memory has changed"),
  });
  await expect(daemon.create()).rejects.toThrow(/being made again/);
  await expect(deps.quarantine.remove("base-snapshot")).rejects.toThrow("template template-base still stands on");
  expect(await daemon.remains()).toMatchObject({ reservations: 0, machines: 0 });
  await writeFile(file, whole);
  await checkSnapshots(deps, never);
  expect(kindsOf(daemon)).toEqual([]);
  await daemon.create();
});

test("a check stops when the daemon does, and calls no snapshot damaged for that", async () => {
  await using daemon = await FakeDaemon.open();
  await expect(checkSnapshots(daemon.deps, AbortSignal.abort(new Error("stopping")))).rejects.toThrow("stopping");
  expect(kindsOf(daemon)).toEqual([]);
});
