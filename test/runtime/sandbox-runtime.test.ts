/** The runtime over the fake engine: whatever fails, and in whatever order, what is held is what runs. */
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { getSandbox } from "../../src/ledger/sandboxes.ts";
import { listSnapshots, registerSnapshot } from "../../src/ledger/snapshots.ts";
import { newSessionId } from "../../src/machine/driver.ts";
import { LiveSession } from "../../src/runtime/live-session.ts";
import { agreeableGuest, nothing, openTestRuntime, type TestRuntime } from "../support/test-runtime.ts";

const failure = new DomainError("machine_failed", "out of luck");
const one = { reservations: 1, machines: 1, folders: 1, links: 1 };

/** Moves time on, again and again, until `condition` holds. */
async function advanceUntil(test: TestRuntime, stepMs: number, condition: () => boolean): Promise<void> {
  for (let step = 0; !condition(); step++) {
    if (step > 5000) throw new Error("it never came to that");
    await test.deps.clock.advance(stepMs);
    // Files are read and made in real time.
    await delay(1);
  }
}

test("a sandbox is created, seen, and killed, and holds its share for as long as it runs", async () => {
  await using made = await openTestRuntime(agreeableGuest().guest);
  const { record } = await made.create();
  expect(made.runtime.getSandbox(record.id).state).toBe("running");
  expect(await made.held()).toEqual(one);
  await made.runtime.killSandbox(record.id);
  expect(() => made.runtime.getSandbox(record.id)).toThrow("doesn't exist");
  await made.deps.terminator.idle();
  expect(await made.held()).toEqual(nothing);
  expect(getSandbox(made.deps.ledger, record.id)).toMatchObject({ state: "terminated", endReason: "killed" });
});

test("what is over the budget or the disk's floor is refused and holds nothing", async () => {
  await using made = await openTestRuntime(agreeableGuest().guest);
  await Promise.all([made.create(), made.create()]);
  await expect(made.create()).rejects.toMatchObject({ code: "capacity_exhausted" });
  made.disk.freeBytes = 1;
  await expect(made.create()).rejects.toMatchObject({ code: "disk_pressure" });
  expect(await made.held()).toMatchObject({ reservations: 2, machines: 2 });
});

test("a restore that fails gives everything back, and the next one works", async () => {
  await using made = await openTestRuntime(agreeableGuest().guest);
  made.host.arrange("restore", { error: failure });
  await expect(made.create()).rejects.toBe(failure);
  await made.deps.terminator.idle();
  expect(await made.held()).toEqual(nothing);
  await made.create();
  expect(await made.held()).toEqual(one);
});

test("where nothing can be restored for the moment, base is booted, and what is paused waits", async () => {
  await using made = await openTestRuntime(agreeableGuest().guest);
  const locked = new DomainError("not_ready", "the screen is locked");
  made.host.arrange("restore", { error: locked });
  const { record } = await made.create();
  expect(made.runtime.getSandbox(record.id).state).toBe("running");
  expect(await made.held()).toEqual(one);
  made.host.arrange("restore", { error: locked });
  await made.runtime.pauseSandbox(record.id, "exited");
  await expect(made.runtime.resumeSandbox(record.id, 60_000)).rejects.toBe(locked);
  expect(made.runtime.getSandbox(record.id).state).toBe("paused");
});

test.each(["silent", "garbage"] as const)(
  "a %s guest is given up after its time, and nothing of it stays",
  async (kind) => {
    await using made = await openTestRuntime({ kind });
    let outcome: unknown;
    const creating = made.create().catch((error: unknown) => {
      outcome = error;
    });
    await advanceUntil(made, 1000, () => outcome !== undefined);
    await creating;
    expect(outcome).toMatchObject({ code: "deadline_exceeded" });
    await made.deps.terminator.idle();
    expect(await made.held()).toEqual(nothing);
    expect(made.runtime.listSandboxes({ states: new Set(["running"]), metadata: {}, order: "asc", limit: 9 })).toEqual({
      sandboxes: [],
      next: undefined,
      totalRunning: 0,
    });
  },
);

test("a machine that does not go keeps its share until it does", async () => {
  await using made = await openTestRuntime(agreeableGuest().guest);
  const { record } = await made.create();
  made.host.arrange("terminate", { error: failure }, { error: failure });
  await made.runtime.killSandbox(record.id);
  expect(() => made.runtime.getSandbox(record.id)).toThrow("doesn't exist");
  await advanceUntil(made, 1, () => made.deps.clock.sleeperCount > 0);
  expect(await made.held()).toMatchObject({ reservations: 1, machines: 1 });
  await advanceUntil(made, 250, () => made.host.calls.filter((step) => step === "terminate").length === 4);
  await made.deps.terminator.idle();
  expect(await made.held()).toEqual(nothing);
  expect(made.logged.map(({ msg }) => msg)).toContain("a step failed; its capacity stays reserved");
});

test("neither does one whose agent never answered", async () => {
  await using made = await openTestRuntime(agreeableGuest().guest);
  made.host.arrange("openGuestLink", { error: failure });
  made.host.arrange("terminate", { error: new Error("still there") });
  await expect(made.create()).rejects.toBe(failure);
  await advanceUntil(made, 1, () => made.deps.clock.sleeperCount > 0);
  expect(await made.held()).toMatchObject({ reservations: 1, machines: 1, links: 0 });
  await made.deps.clock.advance(250);
  await made.deps.terminator.idle();
  expect(await made.held()).toEqual(nothing);
});

test("a machine that dies takes its sandbox along, and no other", async () => {
  await using made = await openTestRuntime(agreeableGuest().guest);
  const [doomed, other] = await Promise.all([made.create(), made.create()]);
  const sessionId = made.runtime.findSession(doomed.record.id)?.sessionId ?? "";
  made.host.crash(sessionId, "killed by the test");
  await expect.poll(() => made.runtime.findSession(doomed.record.id)).toBeUndefined();
  await made.deps.terminator.idle();
  expect(made.runtime.getSandbox(other.record.id).state).toBe("running");
  expect(await made.held()).toEqual(one);
  expect(getSandbox(made.deps.ledger, doomed.record.id)?.endReason).toBe("machine_died");
  expect(made.logged).toContainEqual(expect.objectContaining({ msg: "sandbox lost", detail: "killed by the test" }));
});

test("a link that breaks is made anew; one that breaks again and again ends its sandbox", async () => {
  const { guest, latest } = agreeableGuest();
  await using made = await openTestRuntime(guest);
  const { record } = await made.create();
  const session = made.runtime.findSession(record.id);
  if (!session) throw new Error("no session");
  const broken = latest();
  broken.bytes.write(Buffer.alloc(64, 0xee));
  await advanceUntil(made, 250, () => latest() !== broken);
  await expect.poll(() => session.agent.ping().then(() => "answers")).toBe("answers");
  let links = 0;
  for (let before = broken; !session.ended.aborted; ) {
    if (latest() === before) {
      await made.deps.clock.advance(250);
      await delay(1);
      continue;
    }
    before = latest();
    links++;
    before.bytes.destroy();
  }
  expect(links).toBeLessThan(20);
  expect(() => made.runtime.getSandbox(record.id)).toThrow("doesn't exist");
  await made.deps.terminator.idle();
  expect(await made.held()).toEqual(nothing);
  expect(getSandbox(made.deps.ledger, record.id)?.endReason).toBe("lost");
});

test("a machine that died is not said to be out of reach, though its link breaks first", async () => {
  const { guest, latest } = agreeableGuest();
  await using made = await openTestRuntime(guest);
  const { record } = await made.create();
  const session = made.runtime.findSession(record.id);
  if (!(session instanceof LiveSession)) throw new Error("no session");
  const reach = vi.spyOn(session.vm, "openGuestLink").mockRejectedValue(new Error("connection refused"));
  latest().bytes.destroy();
  await advanceUntil(made, 250, () => reach.mock.calls.length > 0);
  await delay(10);
  made.host.crash(session.sessionId);
  await expect.poll(() => session.ended.aborted).toBe(true);
  await made.deps.terminator.idle();
  expect(getSandbox(made.deps.ledger, record.id)?.endReason).toBe("machine_died");
});

test("its time ends a sandbox, and more time keeps it", async () => {
  await using made = await openTestRuntime(agreeableGuest().guest);
  const [short, long] = await Promise.all([made.create(), made.create()]);
  await made.runtime.setSandboxTimeout(long.record.id, 120_000);
  await made.deps.clock.advance(60_000);
  await made.runtime.expireSandboxes();
  expect(() => made.runtime.getSandbox(short.record.id)).toThrow("doesn't exist");
  await made.deps.terminator.idle();
  expect(await made.held()).toEqual(one);
  expect(getSandbox(made.deps.ledger, short.record.id)?.endReason).toBe("expired");
});

test("a daemon that starts goes on with what runs and cleans up what does not", async () => {
  await using made = await openTestRuntime(agreeableGuest().guest);
  const [kept, dead] = await Promise.all([made.create(), made.create()]);
  await made.runtime.close();
  made.host.crash(dead.record.machine?.sessionId ?? "");
  const next = await made.restart();
  expect(next.getSandbox(kept.record.id)).toMatchObject({ state: "running", accessToken: kept.accessToken });
  expect(() => next.getSandbox(dead.record.id)).toThrow("doesn't exist");
  await made.deps.terminator.idle();
  expect(await made.held()).toEqual(one);
  expect(getSandbox(made.deps.ledger, dead.record.id)?.endReason).toBe("lost");
  expect(made.logged).toContainEqual(
    expect.objectContaining({ msg: "sandbox cannot be adopted", reason: "its machine is gone" }),
  );
  await next.close();
});

test("machine folders, reservations and snapshots that nobody owns are gone after a start", async () => {
  await using made = await openTestRuntime(agreeableGuest().guest);
  const creating = made.create();
  await creating;
  const { ledger, driver } = made.deps;
  await driver.boot({
    sessionId: newSessionId(),
    shape: { vcpuCount: 1, memoryMiB: 1, diskMiB: 1 },
    kernel: "",
    initramfs: "",
    baseDisk: "",
  });
  const halfMade = join(made.deps.snapshotsFolder, "half");
  registerSnapshot(ledger, { id: "half", kind: "template", logicalId: "t", folder: halfMade, reason: null });
  await mkdir(`${halfMade}.staging`, { recursive: true });
  await made.runtime.close();
  const next = await made.restart();
  expect(await made.held()).toEqual(one);
  expect(existsSync(`${halfMade}.staging`)).toBe(false);
  expect(listSnapshots(ledger, ["making", "quarantined"])).toEqual([]);
  await next.close();
});
