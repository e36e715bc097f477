/** Tests of the reconciliation of sandboxes that were paused, or being paused or resumed, when the daemon died. */
import { randomUUID } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { factsOf } from "../../../src/guest-machine/save.ts";
import { reserve } from "../../../src/ledger/capacity.ts";
import { getSandbox, moveSandbox, setSandboxMachine } from "../../../src/ledger/sandboxes.ts";
import { getSnapshot } from "../../../src/ledger/snapshots.ts";
import {
  failBuildJob,
  insertBuildJob,
  noteBuildPossession,
  startBuildJob,
} from "../../../src/ledger/template-builds.ts";
import { registerContinuation } from "../../../src/runtime/machines/capture.ts";
import { publishPause } from "../../../src/runtime/sandboxes/saved-pauses.ts";
import { shape } from "../../ledger/support.ts";
import { FakeDaemon, nothing, paused, running } from "../../support/fakes/fake-daemon.ts";

/** Folders that cannot be removed. */
const failingToRemove: string[] = [];
// Unit tests share modules, and modules that are loaded already would keep the real file system.
vi.hoisted(() => vi.resetModules());
vi.mock("node:fs/promises", async (importOriginal) => {
  const real = await importOriginal<typeof import("node:fs/promises")>();
  const removeOrFail: typeof real.rm = async (path, options) => {
    if (failingToRemove.includes(String(path))) throw new Error(`EIO: ${path} is on a bad block`);
    return real.rm(path, options);
  };
  return { ...real, rm: removeOrFail };
});

/** How much of a pause is done when the daemon dies. */
async function dieWhilePausing(
  daemon: FakeDaemon,
  id: string,
  done: { saved: boolean; published?: boolean; ended: boolean },
) {
  const { deps, host } = daemon;
  await daemon.restart(async () => {
    const { machine, ...record } = moveSandbox(deps.ledger, id, "running", "pausing");
    const snapshot = registerContinuation(deps, id, "stopped");
    const vm = machine && (await deps.driver.adopt(machine));
    if (!vm) throw new Error("no machine");
    await vm.pause();
    if (done.saved) {
      const facts = factsOf(await vm.saveSnapshot(snapshot.folder, { bootId: "boot", isLast: true }));
      const saved = { record: { ...record, machine }, snapshot, facts, pausedAtMs: deps.clock.nowMs() };
      if (done.published) publishPause(deps.ledger, saved);
    } else await mkdir(`${snapshot.folder}.staging`);
    if (done.ended) host.crash(machine.sessionId);
  });
}

/** However often something is tried before. */
async function untilPaused(daemon: FakeDaemon, id: string): Promise<void> {
  const state = async () => {
    await daemon.clock.advance(60_000);
    return daemon.stateOf(id);
  };
  await expect.poll(state).toBe("paused");
}

test("paused sandboxes are shown again and can be resumed", async () => {
  await using daemon = await FakeDaemon.open();
  const { record } = await daemon.create();
  await daemon.pause(record.id);
  const before = daemon.runtime.registry.get(record.id);
  await daemon.restart();
  expect(daemon.runtime.registry.get(record.id)).toEqual(before);
  expect(await daemon.remains()).toEqual(paused);
  expect((await daemon.runtime.resumes.connect(record.id, 1_000)).resumed).toBe(true);
  await daemon.settle();
  expect(await daemon.remains()).toEqual(running);
});

test.each([
  { published: false, ended: false },
  { published: false, ended: true },
  { published: true, ended: false },
  { published: true, ended: true },
])("a pause with a complete snapshot is finished: %j", async (done) => {
  await using daemon = await FakeDaemon.open();
  const { id } = (await daemon.create()).record;
  await dieWhilePausing(daemon, id, { saved: true, ...done });
  expect(daemon.runtime.registry.get(id)).toMatchObject({ state: "paused", record: { machine: null } });
  expect(await daemon.remains()).toEqual(paused);
  expect((await daemon.runtime.resumes.connect(id, 1_000)).resumed).toBe(true);
});

test.each([{ failures: 1 }, { failures: 8 }])(
  "a complete pause is shown at once, and its machine that cannot be ended keeps its capacity until it can: %j",
  async ({ failures }) => {
    await using daemon = await FakeDaemon.open();
    const { host, deps } = daemon;
    const other = (await daemon.create()).record.id;
    const { id } = (await daemon.create()).record;
    await daemon.runtime.close();
    const { machine } = moveSandbox(deps.ledger, id, "running", "pausing");
    const snapshot = registerContinuation(deps, id, "stopped");
    const vm = machine && (await deps.driver.adopt(machine));
    if (!vm) throw new Error("no machine");
    await vm.pause();
    await vm.saveSnapshot(snapshot.folder, { bootId: "boot", isLast: true });
    host.crash(machine.sessionId);
    const failure = { error: new DomainError("machine_failed", "its folder is busy") };
    host.arrange("discard", ...Array.from({ length: failures }, () => failure));
    await daemon.start();
    expect(daemon.runtime.registry.get(other).state).toBe("running");
    expect(daemon.runtime.registry.get(id)).toMatchObject({ state: "paused", keptMemory: true });
    expect(daemon.held().active).toBe(2);
    const untilEnded = async () => {
      await daemon.clock.advance(60_000);
      return daemon.held().active;
    };
    await expect.poll(untilEnded).toBe(1);
    expect(daemon.runtime.registry.get(id).record.machine).toBeNull();
    expect((await daemon.runtime.resumes.connect(id, 1_000)).resumed).toBe(true);
  },
);

test("a resume with a machine that cannot be ended keeps its capacity until then, and the start does not wait", async () => {
  await using daemon = await FakeDaemon.open();
  const { deps, host } = daemon;
  const { id, shape } = (await daemon.create()).record;
  await daemon.pause(id);
  await daemon.runtime.close();
  deps.ledger.write(() => {
    const { id: reservationId } = reserve(deps.ledger, { kind: "active", shape, budgets: deps.budgets, sandboxId: id });
    moveSandbox(deps.ledger, id, "paused", "resuming", { reservationId });
  });
  const request = { sessionId: "0".repeat(32), shape, kernel: "/k", initramfs: "/i", baseDisk: "/b" };
  setSandboxMachine(deps.ledger, id, (await deps.driver.boot(request)).record);
  const failure = { error: new DomainError("machine_failed", "it will not go") };
  host.arrange("discard", ...Array.from({ length: 8 }, () => failure));
  await daemon.start();
  expect(await daemon.remains()).toMatchObject({ machines: 1, reservations: 1 });
  await untilPaused(daemon, id);
  expect([daemon.runtime.registry.get(id).state, await daemon.remains()]).toEqual(["paused", paused]);
});

test("a pause without a snapshot is undone: the machine goes on", async () => {
  await using daemon = await FakeDaemon.open();
  const { id } = (await daemon.create()).record;
  await dieWhilePausing(daemon, id, { saved: false, ended: false });
  expect(daemon.runtime.registry.get(id).state).toBe("running");
  await daemon.runtime.registry.session(id)?.agent.ping();
  expect(await daemon.remains()).toEqual(running);
  await daemon.pause(id);
  expect(await daemon.remains()).toEqual(paused);
});

test("a sandbox with neither machine nor snapshot is lost, and its log says so", async () => {
  await using daemon = await FakeDaemon.open();
  const { id } = (await daemon.create()).record;
  await dieWhilePausing(daemon, id, { saved: false, ended: true });
  expect(() => daemon.runtime.registry.get(id)).toThrow("doesn't exist");
  expect(getSandbox(daemon.deps.ledger, id)).toMatchObject({ state: "terminated", endReason: "lost" });
  expect(await daemon.remains()).toEqual(nothing);
});

test.each([{ known: false }, { known: true }])(
  "a resume under way is undone, and its machine ended: %j",
  async ({ known }) => {
    await using daemon = await FakeDaemon.open();
    const { id, shape } = (await daemon.create()).record;
    await daemon.pause(id);
    const { deps } = daemon;
    await daemon.restart(async () => {
      deps.ledger.write(() => {
        const { id: reservationId } = reserve(deps.ledger, {
          kind: "active",
          shape,
          budgets: deps.budgets,
          sandboxId: id,
        });
        moveSandbox(deps.ledger, id, "paused", "resuming", { reservationId });
      });
      const request = { sessionId: "0".repeat(32), shape, kernel: "/k", initramfs: "/i", baseDisk: "/b" };
      const { record } = await deps.driver.boot(request);
      if (known) setSandboxMachine(deps.ledger, id, record);
    });
    expect(daemon.runtime.registry.get(id).state).toBe("paused");
    expect(await daemon.remains()).toEqual(paused);
    expect((await daemon.runtime.resumes.connect(id, 1_000)).resumed).toBe(true);
  },
);

test("a kill of a paused sandbox that was interrupted is finished", async () => {
  await using daemon = await FakeDaemon.open();
  const { id } = (await daemon.create()).record;
  await daemon.pause(id);
  await daemon.restart(() => moveSandbox(daemon.deps.ledger, id, "paused", "terminating", { endReason: "killed" }));
  expect(daemon.stateOf(id)).toBe("terminated");
  expect(await daemon.remains()).toEqual(nothing);
});

test("the machine and the capacity of a dead build stay its job's until they are cleared up", async () => {
  await using daemon = await FakeDaemon.open();
  const { deps, host } = daemon;
  const { ledger, budgets } = deps;
  const request = { sessionId: "0".repeat(32), shape, kernel: "/k", initramfs: "/i", baseDisk: "/b" };
  const { record: machine } = await deps.driver.boot(request);
  const asked = { tags: [], vcpuCount: null, memoryMiB: null, minFreeDiskMiB: null };
  const job = insertBuildJob(ledger, { id: randomUUID(), templateId: "template-base", ...asked });
  startBuildJob(ledger, job.id);
  const { id: reservationId } = reserve(ledger, { kind: "active", shape, budgets });
  noteBuildPossession(ledger, job.id, { machine, reservationId });
  await daemon.restart();
  expect(host.calls).not.toContain("discard");
  expect(await daemon.remains()).toEqual({ ...running, links: 0 });
  failBuildJob(ledger, job.id, { message: "its machine has gone", logEntries: [] }, []);
  await daemon.restart();
  expect(await daemon.remains()).toEqual(nothing);
});

test("a daemon starts although files cannot be removed", async () => {
  await using daemon = await FakeDaemon.open();
  const { snapshotsFolder } = daemon.deps;
  const { id } = (await daemon.create()).record;
  const stuck = [registerContinuation(daemon.deps, "ixx", "stopped").folder, join(snapshotsFolder, randomUUID())];
  await daemon.restart(async () => {
    for (const folder of stuck) await mkdir(join(folder, "inner"), { recursive: true });
    failingToRemove.push(...stuck);
  });
  expect(daemon.runtime.registry.get(id).state).toBe("running");
  expect(await daemon.remains()).toMatchObject({ snapshotFolders: 2 });
  failingToRemove.length = 0;
  await daemon.restart();
  expect(await daemon.remains()).toEqual(running);
});

test("a half-done save is removed, and a template's snapshot stays", async () => {
  await using daemon = await FakeDaemon.open();
  const { deps } = daemon;
  await daemon.restart(async () => {
    const half = registerContinuation(deps, "ixx", "stopped");
    await mkdir(`${half.folder}.staging`);
    await mkdir(join(deps.snapshotsFolder, `${randomUUID()}.staging`));
    await mkdir(join(deps.snapshotsFolder, randomUUID()));
  });
  expect(await daemon.remains()).toEqual(nothing);
  expect(getSnapshot(deps.ledger, "base-snapshot")?.state).toBe("ready");
  await daemon.create();
});

test("a paused sandbox without its files is listed, cannot be resumed, with an error that names it, and can be killed", async () => {
  await using daemon = await FakeDaemon.open();
  const { id } = (await daemon.create()).record;
  await daemon.pause(id);
  const { snapshotId } = daemon.runtime.registry.get(id).record;
  await daemon.restart(() => rm(join(daemon.deps.snapshotsFolder, snapshotId), { recursive: true }));
  await expect(daemon.runtime.resumes.connect(id, 1_000)).rejects.toThrow(snapshotId);
  expect(daemon.runtime.registry.get(id).state).toBe("paused");
  await daemon.runtime.ends.kill(id);
  await daemon.settle();
  expect(await daemon.remains()).toEqual(nothing);
});
