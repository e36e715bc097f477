import { expect, test } from "vitest";
import { getReservation, reserve, usage } from "../../src/ledger/capacity.ts";
import type { Ledger } from "../../src/ledger/open.ts";
import {
  endSandbox,
  findSandboxBySession,
  getSandbox,
  insertSandbox,
  listSandboxes,
  moveSandbox,
  setSandboxEnd,
  setSandboxMachine,
} from "../../src/ledger/sandboxes.ts";
import { quarantineSnapshot } from "../../src/ledger/snapshots.ts";
import {
  addReadySnapshot,
  addSandbox,
  failureOf,
  machineOf,
  manualClock,
  memoryLedger,
  roomy,
  shape,
} from "./support.ts";

function ledgerWithSnapshot(clock = manualClock()): Ledger {
  const ledger = memoryLedger(clock);
  addReadySnapshot(ledger);
  return ledger;
}

function addRunning(ledger: Ledger, id: string) {
  addSandbox(ledger, id);
  return moveSandbox(ledger, id, "creating", "running", { machine: machineOf(`session-${id}`) });
}

test("a sandbox goes from creating to terminated, and holds its reservation until then", () => {
  const clock = manualClock();
  const ledger = ledgerWithSnapshot(clock);
  const created = addSandbox(ledger, "i1");
  expect(created).toMatchObject({ state: "creating", machine: null, endReason: null });
  expect(getSandbox(ledger, "i1")).toEqual(created);
  setSandboxMachine(ledger, "i1", machineOf("s1"));
  const running = moveSandbox(ledger, "i1", "creating", "running");
  expect(running).toEqual({ ...created, state: "running", machine: machineOf("s1") });
  const ending = moveSandbox(ledger, "i1", "running", "terminating", { endReason: "killed" });
  expect(usage(ledger).active.sandboxes).toBe(1);
  clock.advance(5);
  const ended = endSandbox(ledger, "i1");
  expect(ended).toEqual({ ...ending, state: "terminated", endAtMs: 1_005 });
  expect(endSandbox(ledger, "i1")).toEqual(ended);
  expect(getSandbox(ledger, "i1")).toEqual(ended);
  expect(usage(ledger).active.sandboxes).toBe(0);
});

test("a paused sandbox holds nothing, and resumes with a reservation of its own", () => {
  const ledger = ledgerWithSnapshot();
  addReadySnapshot(ledger, "continuation");
  addRunning(ledger, "i1");
  moveSandbox(ledger, "i1", "running", "pausing");
  const paused = moveSandbox(ledger, "i1", "pausing", "paused", { machine: null, snapshotId: "continuation" });
  expect(usage(ledger).active.sandboxes).toBe(0);
  expect(failureOf(() => moveSandbox(ledger, "i1", "paused", "resuming"))).toMatchObject({
    code: "invalid_state",
    message: `Reservation ${paused.reservationId} is not held for sandbox i1`,
  });
  const reservationId = reserve(ledger, { kind: "active", shape, budgets: roomy, sandboxId: "i1" }).id;
  moveSandbox(ledger, "i1", "paused", "resuming", { reservationId });
  const resumed = moveSandbox(ledger, "i1", "resuming", "running", { machine: machineOf("s2"), endAtMs: 90_000 });
  expect(resumed).toMatchObject({ snapshotId: "continuation", reservationId, endAtMs: 90_000, startedAtMs: 1_000 });
  expect(getSandbox(ledger, "i1")).toEqual(resumed);
});

test("a sandbox changes its reservation only to resume", () => {
  const ledger = ledgerWithSnapshot();
  const other = addSandbox(ledger, "i1");
  addRunning(ledger, "i2");
  const steal = { endReason: "killed", reservationId: other.reservationId } as const;
  expect(failureOf(() => moveSandbox(ledger, "i2", "running", "terminating", steal)).code).toBe("invalid_state");
  expect(getSandbox(ledger, "i2")?.state).toBe("running");
});

test("of two that move a sandbox the second is told the present state", () => {
  const ledger = ledgerWithSnapshot();
  addRunning(ledger, "i1");
  moveSandbox(ledger, "i1", "running", "pausing");
  expect(failureOf(() => moveSandbox(ledger, "i1", "running", "terminating", { endReason: "killed" }))).toEqual({
    code: "invalid_state",
    message: "Sandbox i1 is not running, it is pausing",
  });
  expect(failureOf(() => moveSandbox(ledger, "i9", "running", "pausing")).code).toBe("not_found");
});

test("the ledger refuses moves and rows that make no sense", () => {
  const ledger = ledgerWithSnapshot();
  addSandbox(ledger, "i1");
  expect(failureOf(() => moveSandbox(ledger, "i1", "creating", "paused")).code).toBe("internal");
  expect(() => moveSandbox(ledger, "i1", "creating", "running"), "without a machine").toThrow(/CHECK/);
  expect(() => moveSandbox(ledger, "i1", "creating", "terminated"), "without a reason").toThrow(/CHECK/);
  expect(getSandbox(ledger, "i1")?.state).toBe("creating");
  expect(usage(ledger).active.sandboxes).toBe(1);
});

test("a sandbox is admitted whole or not at all", () => {
  const ledger = ledgerWithSnapshot();
  const other = addSandbox(ledger, "i1");
  const { state: _, machine: __, endReason: ___, ...sandbox } = other;
  expect(failureOf(() => insertSandbox(ledger, { ...sandbox, id: "i2" }))).toEqual({
    code: "invalid_state",
    message: `Reservation ${other.reservationId} is not held for sandbox i2`,
  });
  quarantineSnapshot(ledger, "snap", "memory.img has another hash");
  expect(failureOf(() => addSandbox(ledger, "i2"))).toEqual({
    code: "failed_precondition",
    message: "Snapshot snap cannot be restored, it is quarantined: memory.img has another hash",
  });
  expect(failureOf(() => addSandbox(ledger, "i2", "nothing")).code).toBe("not_found");
  expect(usage(ledger).active.sandboxes).toBe(1);
  expect(listSandboxes(ledger)).toEqual([other]);
});

test("the time-out can be set only while a sandbox runs, and the machine only while it starts", () => {
  const ledger = ledgerWithSnapshot();
  addSandbox(ledger, "i1");
  expect(failureOf(() => setSandboxEnd(ledger, "i1", 5)).code).toBe("invalid_state");
  moveSandbox(ledger, "i1", "creating", "running", { machine: machineOf("s1") });
  expect(setSandboxEnd(ledger, "i1", 5).endAtMs).toBe(5);
  expect(getSandbox(ledger, "i1")?.endAtMs).toBe(5);
  expect(failureOf(() => setSandboxMachine(ledger, "i1", machineOf("s2"))).code).toBe("invalid_state");
  expect(failureOf(() => setSandboxEnd(ledger, "i9", 5)).code).toBe("not_found");
});

test("sandboxes are listed by state, in order of their start, and found by their machine", () => {
  const clock = manualClock();
  const ledger = ledgerWithSnapshot(clock);
  addRunning(ledger, "b");
  addRunning(ledger, "a");
  clock.advance(1);
  addSandbox(ledger, "0");
  addRunning(ledger, "gone");
  moveSandbox(ledger, "gone", "running", "terminating", { endReason: "expired" });
  endSandbox(ledger, "gone");
  expect(listSandboxes(ledger).map(({ id }) => id)).toEqual(["a", "b", "0"]);
  expect(listSandboxes(ledger, ["terminated", "creating"]).map(({ id }) => id)).toEqual(["0", "gone"]);
  expect(findSandboxBySession(ledger, "session-a")?.id).toBe("a");
  expect(findSandboxBySession(ledger, "session-x")).toBeUndefined();
});

test("names, values and keys come back exactly as they were given", () => {
  const ledger = ledgerWithSnapshot();
  const { state: _, machine: __, endReason: ___, ...sandbox } = addSandbox(ledger, "i1");
  const nasty = { "": "empty", "'; drop table sandboxes; --": '\u0000\n\t"\\', "日本語 🎉": "x".repeat(100_000) };
  const { id: reservationId } = reserve(ledger, { kind: "active", shape, budgets: roomy, sandboxId: "i2" });
  insertSandbox(ledger, { ...sandbox, id: "i2", reservationId, metadata: nasty, envs: nasty });
  expect(getSandbox(ledger, "i2")).toMatchObject({ metadata: nasty, envs: nasty });
});

test("unknown content of a JSON column is an error that names its place", () => {
  const ledger = ledgerWithSnapshot();
  addSandbox(ledger, "i1");
  ledger.statement(`update sandboxes set metadata = '{"a":1}'`).run({});
  expect(failureOf(() => getSandbox(ledger, "i1"))).toEqual({
    code: "internal",
    message: "The ledger has something unknown in sandboxes.metadata of i1",
  });
});

test("a create that fails gives back what it held", () => {
  const ledger = ledgerWithSnapshot();
  const { reservationId } = addSandbox(ledger, "i1");
  moveSandbox(ledger, "i1", "creating", "terminated", { endReason: "create_failed" });
  expect(getReservation(ledger, reservationId)?.state).toBe("released");
});
