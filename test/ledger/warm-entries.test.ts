import { expect, test } from "vitest";
import { listUnownedReservations, release, reserve, usage } from "../../src/ledger/capacity.ts";
import type { Ledger } from "../../src/ledger/open.ts";
import {
  checkOutWarmEntry,
  discardWarmEntry,
  insertWarmEntry,
  listWarmEntries,
  markWarmEntryReady,
} from "../../src/ledger/warm-entries.ts";
import { addReadySnapshot, failureOf, machineOf, memoryLedger, roomy, shape } from "./support.ts";

const key = { templateId: "t1", buildId: "b1", runtimeProfile: "default" };

function ledgerWithSnapshot(): Ledger {
  const ledger = memoryLedger();
  addReadySnapshot(ledger);
  return ledger;
}

function addWarming(ledger: Ledger) {
  return ledger.write(() => {
    const { id: reservationId } = reserve(ledger, { kind: "warm", shape, budgets: roomy });
    return insertWarmEntry(ledger, { ...key, snapshotId: "snap", reservationId });
  });
}

function addReady(ledger: Ledger) {
  const entry = addWarming(ledger);
  markWarmEntryReady(ledger, entry.id, machineOf(entry.id));
  return entry;
}

test("a checkout takes an entry that is ready, once, and makes its reservation the sandbox's", () => {
  const ledger = ledgerWithSnapshot();
  const [half, first] = [addWarming(ledger), addReady(ledger)];
  checkOutWarmEntry(ledger, first.id, "i1");
  expect(listWarmEntries(ledger, ["checked_out"])).toEqual([
    { ...first, state: "checked_out", machine: machineOf(first.id) },
  ]);
  expect(usage(ledger)).toMatchObject({ active: { sandboxes: 1 }, warm: { sandboxes: 1 } });
  for (const { id } of [half, first]) {
    expect(failureOf(() => checkOutWarmEntry(ledger, id, "i2")).code).toBe("invalid_state");
  }
  expect(usage(ledger)).toMatchObject({ active: { sandboxes: 1 }, warm: { sandboxes: 1 } });
});

test("a checkout that fails leaves the entry in the pool", () => {
  const ledger = ledgerWithSnapshot();
  const { id } = addReady(ledger);
  reserve(ledger, { kind: "active", shape, budgets: roomy, sandboxId: "i1" });
  expect(failureOf(() => checkOutWarmEntry(ledger, id, "i1")).code).toBe("already_exists");
  expect(listWarmEntries(ledger, ["ready"])).toHaveLength(1);
});

test("a discarded entry cannot be checked out, and holds its reservation until its machine is gone", () => {
  const ledger = ledgerWithSnapshot();
  const entry = addReady(ledger);
  expect([discardWarmEntry(ledger, entry.id), discardWarmEntry(ledger, entry.id)]).toEqual([true, false]);
  expect(failureOf(() => checkOutWarmEntry(ledger, entry.id, "i1")).code).toBe("invalid_state");
  expect(failureOf(() => markWarmEntryReady(ledger, entry.id, machineOf("s"))).code).toBe("invalid_state");
  expect(usage(ledger).warm.sandboxes).toBe(1);
  expect(listUnownedReservations(ledger)).toEqual([]);
  expect(release(ledger, entry.reservationId)).toBe(true);
});

test("an entry needs a held warm reservation, which belongs to one entry only", () => {
  const ledger = ledgerWithSnapshot();
  const active = reserve(ledger, { kind: "active", shape, budgets: roomy });
  const insert = (reservationId: string) => () =>
    insertWarmEntry(ledger, { ...key, snapshotId: "snap", reservationId });
  expect(failureOf(insert(active.id)).code).toBe("invalid_state");
  expect(insert(addWarming(ledger).reservationId)).toThrow(/UNIQUE/);
});
