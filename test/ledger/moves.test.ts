/** Moves of a row: legal ones once each, and no other. */
import { expect, test } from "vitest";
import { type Lifecycle, moveRow } from "../../src/ledger/moves.ts";
import { getSnapshot, registerSnapshot, type SnapshotState } from "../../src/ledger/snapshots.ts";
import { memoryLedger } from "./support.ts";

const lifecycle: Lifecycle<SnapshotState> = {
  table: "snapshots",
  nextStates: { making: ["quarantined"], ready: [], quarantined: [], deleted: [] },
};

function ledgerWithSnapshot() {
  const ledger = memoryLedger();
  registerSnapshot(ledger, { id: "s", kind: "template", logicalId: "t", folder: "/s", reason: null });
  return ledger;
}

test("of two moves from one state the first wins, and the second changes nothing", () => {
  const ledger = ledgerWithSnapshot();
  const moveFor = (reason: string) =>
    moveRow(ledger, lifecycle, {
      id: "s",
      from: ["making"],
      to: "quarantined",
      set: { quarantine_reason: reason, boot_id: undefined },
    });
  expect([moveFor("first"), moveFor("second")]).toEqual([true, false]);
  expect(getSnapshot(ledger, "s")).toMatchObject({ state: "quarantined", quarantineReason: "first", bootId: null });
});

test("a move that the table does not have is refused whatever state the row is in", () => {
  const ledger = ledgerWithSnapshot();
  for (const from of [["deleted"], ["making", "deleted"]] as const) {
    const move = () => moveRow(ledger, lifecycle, { id: "s", from, to: "quarantined" });
    expect(move).toThrow("A row of snapshots never goes from deleted to quarantined");
  }
  expect(getSnapshot(ledger, "s")?.state).toBe("making");
});

test("a row that stays in its state changes its columns, if the condition holds", () => {
  const ledger = ledgerWithSnapshot();
  const note = (bootId: string, when: string) =>
    moveRow(ledger, lifecycle, { id: "s", from: ["making"], to: "making", set: { boot_id: bootId }, when });
  expect([note("b", "kind = 'template'"), note("c", "kind = 'continuation'")]).toEqual([true, false]);
  expect(getSnapshot(ledger, "s")).toMatchObject({ state: "making", bootId: "b" });
});
