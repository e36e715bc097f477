/**
 * Tests of the runtime over the fake engine: whatever fails, and in whatever order, only running machines hold
 * capacity.
 */
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { getSandbox } from "../../../src/ledger/sandboxes.ts";
import { listSnapshots, registerSnapshot } from "../../../src/ledger/snapshots.ts";
import { newSessionId } from "../../../src/machine/driver.ts";
import { LiveSession } from "../../../src/runtime/sessions/live-session.ts";
import { FakeDaemon, type FakeDaemonOptions, nothing, paused, running } from "../../support/fakes/fake-daemon.ts";
import { requestFor } from "../../support/fakes/fake-wiring.ts";

const failure = new DomainError("machine_failed", "out of luck");
/** Capacity for two sandboxes. */
const small: FakeDaemonOptions = { budgets: { sandboxes: 2 }, retriesByHand: true };

/** Moves time on, again and again, until `condition` holds. */
async function advanceUntil(daemon: FakeDaemon, stepMs: number, condition: () => boolean): Promise<void> {
  for (let step = 0; !condition(); step++) {
    if (step > 5000) throw new Error("it never came to that");
    await daemon.clock.advance(stepMs);
    // Files are read and written in real time.
    await delay(1);
  }
}

test("a sandbox is created, shown and killed, and holds its capacity for as long as it runs", async () => {
  await using daemon = await FakeDaemon.open(small);
  const { record } = await daemon.create();
  expect(daemon.runtime.registry.get(record.id).state).toBe("running");
  expect(await daemon.remains()).toEqual(running);
  await daemon.runtime.ends.kill(record.id);
  expect(() => daemon.runtime.registry.get(record.id)).toThrow("doesn't exist");
  await daemon.deps.unfinishedWork.idle();
  expect(await daemon.remains()).toEqual(nothing);
  expect(getSandbox(daemon.deps.ledger, record.id)).toMatchObject({ state: "terminated", endReason: "killed" });
});

test("a create over the budget or the disk's floor is refused and holds nothing", async () => {
  await using daemon = await FakeDaemon.open(small);
  await Promise.all([daemon.create(), daemon.create()]);
  await expect(daemon.create()).rejects.toMatchObject({ code: "capacity_exhausted" });
  daemon.disk.freeBytes = 1;
  await expect(daemon.create()).rejects.toMatchObject({ code: "disk_pressure" });
  expect(await daemon.remains()).toMatchObject({ reservations: 2, machines: 2 });
});

test("a restore that fails releases everything, and the next restore works", async () => {
  await using daemon = await FakeDaemon.open(small);
  daemon.host.arrange("restore", { error: failure });
  await expect(daemon.create()).rejects.toBe(failure);
  await daemon.deps.unfinishedWork.idle();
  expect(await daemon.remains()).toEqual(nothing);
  await daemon.create();
  expect(await daemon.remains()).toEqual(running);
});

test("on a host that restores nothing at the moment base is booted, and a paused sandbox stays paused", async () => {
  await using daemon = await FakeDaemon.open(small);
  const locked = new DomainError("not_ready", "the screen is locked");
  daemon.host.arrange("restore", { error: locked });
  const { record } = await daemon.create();
  expect(daemon.runtime.registry.get(record.id).state).toBe("running");
  expect(await daemon.remains()).toEqual(running);
  daemon.host.arrange("restore", { error: locked });
  await daemon.pause(record.id, "exited");
  await expect(daemon.runtime.resumes.resume(record.id, 60_000)).rejects.toBe(locked);
  expect(daemon.runtime.registry.get(record.id).state).toBe("paused");
});

test.each(["silent", "garbage"] as const)(
  "a %s guest is given up after its time, and nothing of it remains",
  async (kind) => {
    await using daemon = await FakeDaemon.open({ ...small, guest: { kind } });
    let outcome: unknown;
    const creating = daemon.create().catch((error: unknown) => {
      outcome = error;
    });
    await advanceUntil(daemon, 1000, () => outcome !== undefined);
    await creating;
    expect(outcome).toMatchObject({ code: "deadline_exceeded" });
    await daemon.deps.unfinishedWork.idle();
    expect(await daemon.remains()).toEqual(nothing);
    expect(
      daemon.runtime.registry.list({ states: new Set(["running"]), metadata: {}, order: "asc", limit: 9 }),
    ).toEqual({
      sandboxes: [],
      next: undefined,
      totalRunning: 0,
    });
  },
);

test("a machine that cannot be ended keeps its capacity until it is ended", async () => {
  await using daemon = await FakeDaemon.open(small);
  const { record } = await daemon.create();
  daemon.host.arrange("terminate", { error: failure }, { error: failure });
  await daemon.runtime.ends.kill(record.id);
  expect(() => daemon.runtime.registry.get(record.id)).toThrow("doesn't exist");
  await advanceUntil(daemon, 1, () => daemon.clock.sleeperCount > 0);
  expect(await daemon.remains()).toMatchObject({ reservations: 1, machines: 1 });
  await advanceUntil(daemon, 250, () => daemon.host.calls.filter((step) => step === "terminate").length === 4);
  await daemon.deps.unfinishedWork.idle();
  expect(await daemon.remains()).toEqual(nothing);
  expect(daemon.logged.map(({ msg }) => msg)).toContain("a step failed; its capacity stays reserved");
});

test("a machine that never answered and cannot be ended keeps its capacity, too", async () => {
  await using daemon = await FakeDaemon.open(small);
  daemon.host.arrange("openGuestLink", { error: failure });
  daemon.host.arrange("terminate", { error: new Error("still there") });
  await expect(daemon.create()).rejects.toBe(failure);
  await advanceUntil(daemon, 1, () => daemon.clock.sleeperCount > 0);
  expect(await daemon.remains()).toMatchObject({ reservations: 1, machines: 1, links: 0 });
  await daemon.clock.advance(250);
  await daemon.deps.unfinishedWork.idle();
  expect(await daemon.remains()).toEqual(nothing);
});

test("a machine that dies ends its own sandbox only", async () => {
  await using daemon = await FakeDaemon.open(small);
  const [doomed, other] = await Promise.all([daemon.create(), daemon.create()]);
  const sessionId = daemon.runtime.registry.session(doomed.record.id)?.sessionId ?? "";
  daemon.host.crash(sessionId, "killed by the test");
  await expect.poll(() => daemon.runtime.registry.session(doomed.record.id)).toBeUndefined();
  await daemon.deps.unfinishedWork.idle();
  expect(daemon.runtime.registry.get(other.record.id).state).toBe("running");
  expect(await daemon.remains()).toEqual(running);
  expect(getSandbox(daemon.deps.ledger, doomed.record.id)?.endReason).toBe("machine_died");
  expect(daemon.logged).toContainEqual(expect.objectContaining({ msg: "sandbox lost", detail: "killed by the test" }));
});

test("a link that breaks is made anew, and pauses its sandbox when it breaks again and again", async () => {
  await using daemon = await FakeDaemon.open(small);
  const { record } = await daemon.create();
  const session = daemon.runtime.registry.session(record.id);
  if (!session) throw new Error("no session");
  const broken = daemon.guests.latest;
  broken.bytes.write(Buffer.alloc(64, 0xee));
  await advanceUntil(daemon, 250, () => daemon.guests.latest !== broken);
  await expect.poll(() => session.agent.ping().then(() => "answers")).toBe("answers");
  let links = 0;
  for (let before = broken; !session.ended.aborted; ) {
    if (daemon.guests.latest === before) {
      await daemon.clock.advance(250);
      await delay(1);
      continue;
    }
    before = daemon.guests.latest;
    links++;
    before.bytes.destroy();
  }
  expect(links).toBeLessThan(20);
  await expect.poll(() => daemon.stateOf(record.id)).toBe("paused");
  await daemon.deps.unfinishedWork.idle();
  expect(await daemon.remains()).toEqual(paused);
});

test("a guest that booted anew is a dead machine, and the log says so", async () => {
  await using daemon = await FakeDaemon.open(small);
  const { record } = await daemon.create();
  daemon.guests.bootId = "another";
  daemon.guests.latest.bytes.destroy();
  await advanceUntil(daemon, 250, () => daemon.stateOf(record.id) !== "running");
  await daemon.deps.unfinishedWork.idle();
  expect(getSandbox(daemon.deps.ledger, record.id)?.endReason).toBe("machine_died");
  const detail = "the guest has booted anew: its boot id is another and was boot";
  expect(daemon.logged).toContainEqual(expect.objectContaining({ msg: "sandbox lost", detail }));
  expect(await daemon.remains()).toEqual(nothing);
});

test("a guest that booted anew while no daemon ran is lost", async () => {
  await using daemon = await FakeDaemon.open(small);
  const { record } = await daemon.create();
  await daemon.runtime.close();
  daemon.guests.bootId = "another";
  await daemon.start();
  await daemon.deps.unfinishedWork.idle();
  expect(getSandbox(daemon.deps.ledger, record.id)?.endReason).toBe("lost");
  const reason = "the guest has booted anew: its boot id is another and was boot";
  expect(daemon.logged).toContainEqual(expect.objectContaining({ msg: "sandbox cannot be adopted", reason }));
  expect(await daemon.remains()).toEqual(nothing);
});

test("a machine that died is reported as dead, although its link breaks first", async () => {
  await using daemon = await FakeDaemon.open(small);
  const { record } = await daemon.create();
  const session = daemon.runtime.registry.session(record.id);
  if (!(session instanceof LiveSession)) throw new Error("no session");
  const reach = vi.spyOn(session.vm, "openGuestLink").mockRejectedValue(new Error("connection refused"));
  daemon.guests.latest.bytes.destroy();
  await advanceUntil(daemon, 250, () => reach.mock.calls.length > 0);
  await delay(10);
  daemon.host.crash(session.sessionId);
  await expect.poll(() => session.ended.aborted).toBe(true);
  await daemon.deps.unfinishedWork.idle();
  expect(getSandbox(daemon.deps.ledger, record.id)?.endReason).toBe("machine_died");
});

test("a sandbox ends at its deadline, unless the deadline is moved", async () => {
  await using daemon = await FakeDaemon.open(small);
  const [short, long] = await Promise.all([daemon.create(), daemon.create()]);
  await daemon.runtime.deadlines.set(long.record.id, 120_000);
  await daemon.clock.advance(60_000);
  await daemon.runtime.deadlines.expireDue();
  expect(() => daemon.runtime.registry.get(short.record.id)).toThrow("doesn't exist");
  await daemon.deps.unfinishedWork.idle();
  expect(await daemon.remains()).toEqual(running);
  expect(getSandbox(daemon.deps.ledger, short.record.id)?.endReason).toBe("expired");
});

test("a daemon that starts adopts the sandboxes that run and cleans up the others", async () => {
  await using daemon = await FakeDaemon.open(small);
  const [kept, dead] = await Promise.all([daemon.create(), daemon.create()]);
  await daemon.runtime.close();
  daemon.host.crash(dead.record.machine?.sessionId ?? "");
  await daemon.start();
  expect(daemon.runtime.registry.get(kept.record.id)).toMatchObject({
    state: "running",
    accessToken: kept.accessToken,
  });
  expect(() => daemon.runtime.registry.get(dead.record.id)).toThrow("doesn't exist");
  await daemon.deps.unfinishedWork.idle();
  expect(await daemon.remains()).toEqual(running);
  expect(getSandbox(daemon.deps.ledger, dead.record.id)?.endReason).toBe("lost");
  expect(daemon.logged).toContainEqual(
    expect.objectContaining({ msg: "sandbox cannot be adopted", reason: "its machine is gone" }),
  );
});

test("machine folders, reservations and snapshots without an owner are removed at a start", async () => {
  await using daemon = await FakeDaemon.open(small);
  const creating = daemon.create();
  await creating;
  const { ledger, driver } = daemon.deps;
  await driver.boot({
    sessionId: newSessionId(),
    shape: { vcpuCount: 1, memoryMiB: 1, diskMiB: 1 },
    kernel: "",
    initramfs: "",
    baseDisk: "",
  });
  const halfMade = join(daemon.deps.snapshotsFolder, "half");
  registerSnapshot(ledger, { id: "half", kind: "template", logicalId: "t", folder: halfMade, reason: null });
  await mkdir(`${halfMade}.staging`, { recursive: true });
  await daemon.runtime.close();
  await daemon.start();
  expect(await daemon.remains()).toEqual(running);
  expect(existsSync(`${halfMade}.staging`)).toBe(false);
  expect(listSnapshots(ledger, ["making", "quarantined"])).toEqual([]);
});

test("a daemon that stops refuses new work, and lets its machines run on", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime } = daemon;
  const { id } = (await daemon.create()).record;
  await runtime.close();
  const { creates, pauses, resumes, traffic, forks, snapshots } = runtime;
  for (const attempt of [
    () => creates.create(requestFor("base", 1_000)),
    () => resumes.connect(id, 1_000),
    () => resumes.resume(id, 1_000),
    () => traffic.resumeForTraffic(id),
    () => pauses.pause(id, "stopped"),
    () => forks.fork(id, { count: 1, timeoutMs: 1_000 }),
    () => forks.followUp(id, { timeoutMs: 1_000 }),
    () => snapshots.take(id),
  ]) {
    await expect(attempt()).rejects.toMatchObject({ code: "not_ready", message: "The daemon is stopping" });
  }
  expect(await daemon.remains()).toEqual({ ...running, links: 0 });
});
