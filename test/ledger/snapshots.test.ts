import { expect, test } from "vitest";
import { reserve } from "../../src/ledger/capacity.ts";
import type { Ledger } from "../../src/ledger/open.ts";
import { moveSandbox } from "../../src/ledger/sandboxes.ts";
import {
  deleteContinuation,
  deleteSnapshot,
  findContinuationInMaking,
  getSnapshot,
  listSnapshots,
  listStrayContinuations,
  markSnapshotReady,
  quarantineSnapshot,
  registerSnapshot,
} from "../../src/ledger/snapshots.ts";
import { insertTemplate, publishBuild } from "../../src/ledger/templates.ts";
import { insertWarmEntry, markWarmEntryReady } from "../../src/ledger/warm-entries.ts";
import { addReadySnapshot, addSandbox, facts, failureOf, machineOf, memoryLedger, roomy, shape } from "./support.ts";

const continuation = {
  id: "c1",
  kind: "continuation",
  logicalId: "i1",
  folder: "/snapshots/c1",
  reason: "idle",
} as const;

test("a snapshot is known from before it is made until it is deleted", () => {
  const ledger = memoryLedger();
  const making = registerSnapshot(ledger, continuation);
  const unset = { sandboxId: null, facts: null, bootId: null, quarantineReason: null, quarantinedAtMs: null };
  expect(making).toEqual({ ...continuation, ...unset, state: "making", createdAtMs: 1_000 });
  expect(getSnapshot(ledger, "c1")).toEqual(making);
  markSnapshotReady(ledger, "c1", facts);
  expect(getSnapshot(ledger, "c1")).toEqual({ ...making, state: "ready", facts });
  expect(listSnapshots(ledger, ["ready"]).map(({ id }) => id)).toEqual(["c1"]);
  deleteSnapshot(ledger, "c1");
  deleteSnapshot(ledger, "c1");
  expect(listSnapshots(ledger, ["making", "ready", "quarantined"])).toEqual([]);
  expect(getSnapshot(ledger, "c1")?.state).toBe("deleted");
});

test("a snapshot becomes ready once, and a quarantined one never", () => {
  const ledger = memoryLedger();
  addReadySnapshot(ledger, "good");
  expect(failureOf(() => markSnapshotReady(ledger, "good", facts))).toEqual({
    code: "invalid_state",
    message: "Snapshot good is not being made, it is ready",
  });
  registerSnapshot(ledger, continuation);
  quarantineSnapshot(ledger, "c1", "left half-made");
  expect(getSnapshot(ledger, "c1")).toMatchObject({ state: "quarantined", quarantineReason: "left half-made" });
  expect(failureOf(() => markSnapshotReady(ledger, "c1", facts)).code).toBe("invalid_state");
  expect(failureOf(() => quarantineSnapshot(ledger, "c1", "again")).code).toBe("invalid_state");
  expect(failureOf(() => markSnapshotReady(ledger, "c9", facts)).code).toBe("not_found");
  expect(failureOf(() => deleteSnapshot(ledger, "c9")).code).toBe("not_found");
});

test("two snapshots never share a folder, until the first is deleted", () => {
  const ledger = memoryLedger();
  registerSnapshot(ledger, continuation);
  expect(() => registerSnapshot(ledger, { ...continuation, id: "c2" })).toThrow(/UNIQUE/);
  deleteSnapshot(ledger, "c1");
  expect(registerSnapshot(ledger, { ...continuation, id: "c2" }).id).toBe("c2");
});

test("a snapshot that a sandbox needs is not deleted before the sandbox ends", () => {
  const ledger = memoryLedger();
  addReadySnapshot(ledger);
  addSandbox(ledger, "i1");
  const refused = { code: "failed_precondition", message: "Snapshot snap is in use: it cannot be deleted" };
  expect(deletion(ledger)).toEqual(refused);
  moveSandbox(ledger, "i1", "creating", "running", { machine: machineOf("s1") });
  expect(deletion(ledger)).toEqual(refused);
  moveSandbox(ledger, "i1", "running", "terminating", { endReason: "killed" });
  deleteSnapshot(ledger, "snap");
  expect(getSnapshot(ledger, "snap")?.state).toBe("deleted");
});

test("a snapshot that a tag points to is not deleted before another one replaces it", () => {
  const ledger = memoryLedger();
  addReadySnapshot(ledger);
  insertTemplate(ledger, { id: "t1", aliases: ["base"], public: true, shape });
  publishBuild(ledger, { id: "b1", templateId: "t1", snapshotId: "snap", shape, tags: ["default"] });
  expect(deletion(ledger).code).toBe("failed_precondition");
  addReadySnapshot(ledger, "newer");
  publishBuild(ledger, { id: "b2", templateId: "t1", snapshotId: "newer", shape, tags: ["default"] });
  deleteSnapshot(ledger, "snap");
  expect(getSnapshot(ledger, "snap")?.state).toBe("deleted");
});

test("a snapshot is not deleted while a warm entry is being restored from it", () => {
  const ledger = memoryLedger();
  addReadySnapshot(ledger);
  const { id: reservationId } = reserve(ledger, { kind: "warm", shape, budgets: roomy });
  const key = { templateId: "t1", buildId: "b1", runtimeProfile: "default" };
  const { id } = insertWarmEntry(ledger, { ...key, snapshotId: "snap", reservationId });
  expect(deletion(ledger).code).toBe("failed_precondition");
  markWarmEntryReady(ledger, id, machineOf("s1"));
  deleteSnapshot(ledger, "snap");
  expect(getSnapshot(ledger, "snap")?.state).toBe("deleted");
});

test("a continuation stays while its sandbox is paused or resuming, and is a stray once the sandbox runs", () => {
  const ledger = memoryLedger();
  addReadySnapshot(ledger);
  const { shape: needs } = addSandbox(ledger, "i1");
  moveSandbox(ledger, "i1", "creating", "running", { machine: machineOf("s1") });
  moveSandbox(ledger, "i1", "running", "pausing");
  registerSnapshot(ledger, continuation);
  expect(findContinuationInMaking(ledger, "i1")?.id).toBe("c1");
  expect(findContinuationInMaking(ledger, "i2")).toBeUndefined();
  ledger.writeDurably(() => {
    markSnapshotReady(ledger, "c1", facts);
    moveSandbox(ledger, "i1", "pausing", "paused", { machine: null, snapshotId: "c1" });
  });
  expect(findContinuationInMaking(ledger, "i1")).toBeUndefined();
  const refused = { code: "failed_precondition", message: "Continuation c1 is in use: it cannot be deleted" };
  expect(failureOf(() => deleteContinuation(ledger, "c1"))).toEqual(refused);
  const reservation = reserve(ledger, { kind: "active", shape: needs, budgets: roomy, sandboxId: "i1" });
  moveSandbox(ledger, "i1", "paused", "resuming", { reservationId: reservation.id });
  expect(failureOf(() => deleteContinuation(ledger, "c1"))).toEqual(refused);
  expect(listStrayContinuations(ledger)).toEqual([]);
  moveSandbox(ledger, "i1", "resuming", "running", { machine: machineOf("s2") });
  expect(listStrayContinuations(ledger).map(({ id }) => id)).toEqual(["c1"]);
  deleteContinuation(ledger, "c1");
  deleteContinuation(ledger, "c1");
  expect(listStrayContinuations(ledger)).toEqual([]);
  expect(failureOf(() => deleteContinuation(ledger, "snap")).code).toBe("failed_precondition");
  expect(failureOf(() => deleteContinuation(ledger, "c9")).code).toBe("not_found");
});

function deletion(ledger: Ledger) {
  return failureOf(() => deleteSnapshot(ledger, "snap"));
}
