import { expect, test } from "vitest";
import { getReservation, release, reserve } from "../../src/ledger/capacity.ts";
import { purgeEnded } from "../../src/ledger/history.ts";
import type { Ledger } from "../../src/ledger/open.ts";
import { getSandbox, listSandboxes, moveSandbox } from "../../src/ledger/sandboxes.ts";
import { deleteSnapshot, getSnapshot } from "../../src/ledger/snapshots.ts";
import { findTemplate, insertTemplate, publishBuild } from "../../src/ledger/templates.ts";
import {
  checkOutWarmEntry,
  discardWarmEntry,
  insertWarmEntry,
  listWarmEntries,
} from "../../src/ledger/warm-entries.ts";
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

function end(ledger: Ledger, id: string): void {
  moveSandbox(ledger, id, "creating", "terminated", { endReason: "create_failed", endAtMs: ledger.nowMs() });
}

test("ended sandboxes are forgotten by age and by number, with their reservations; live ones never", () => {
  const clock = manualClock();
  const ledger = memoryLedger(clock);
  addReadySnapshot(ledger);
  const live = addSandbox(ledger, "live");
  const reservations = ["old", "mid", "new", "newest"].map((id) => {
    const { reservationId } = addSandbox(ledger, id);
    end(ledger, id);
    clock.advance(100);
    return reservationId;
  });
  expect(purgeEnded(ledger, { endedBeforeMs: 1_050, keep: 2 })).toMatchObject({ sandboxes: 2, reservations: 2 });
  expect(listSandboxes(ledger, ["terminated"]).map(({ id }) => id)).toEqual(["new", "newest"]);
  expect(reservations.map((id) => getReservation(ledger, id)?.state)).toEqual([
    undefined,
    undefined,
    "released",
    "released",
  ]);
  expect(release(ledger, reservations[0] ?? "")).toBe(false);
  expect(purgeEnded(ledger, { endedBeforeMs: 99_999, keep: 0 })).toMatchObject({ sandboxes: 2, reservations: 2 });
  expect(getSandbox(ledger, "live")).toEqual(live);
  expect(getReservation(ledger, live.reservationId)?.state).toBe("held");
});

test("a paused sandbox keeps its last reservation's row and its snapshot", () => {
  const ledger = memoryLedger();
  addReadySnapshot(ledger);
  const { reservationId } = addSandbox(ledger, "i1");
  moveSandbox(ledger, "i1", "creating", "running", { machine: machineOf("s1") });
  moveSandbox(ledger, "i1", "running", "pausing");
  const paused = moveSandbox(ledger, "i1", "pausing", "paused", { machine: null });
  purgeEnded(ledger, { endedBeforeMs: 99_999, keep: 0 });
  expect(getSandbox(ledger, "i1")).toEqual(paused);
  expect(getReservation(ledger, reservationId)?.state).toBe("released");
});

test("a deleted snapshot is remembered as long as a tagged build or a sandbox names it", () => {
  const ledger = memoryLedger();
  addReadySnapshot(ledger, "s1");
  addReadySnapshot(ledger, "s2");
  insertTemplate(ledger, { id: "t1", aliases: [], public: true, shape });
  publishBuild(ledger, { id: "b1", templateId: "t1", snapshotId: "s1", shape, tags: ["default"] });
  addSandbox(ledger, "i1", "s1");
  publishBuild(ledger, { id: "b2", templateId: "t1", snapshotId: "s2", shape, tags: ["default"] });
  end(ledger, "i1");
  deleteSnapshot(ledger, "s1");
  expect(purgeEnded(ledger, { endedBeforeMs: 0, keep: 9 }).snapshots).toBe(0);
  expect(getSnapshot(ledger, "s1")?.state).toBe("deleted");
  expect(purgeEnded(ledger, { endedBeforeMs: 0, keep: 0 }).snapshots).toBe(1);
  expect(getSnapshot(ledger, "s1")).toBeUndefined();
  expect(findTemplate(ledger, "t1")?.buildIds).toEqual(["b2"]);
});

test("a discarded warm entry is remembered until its reservation is released", () => {
  const ledger = memoryLedger();
  addReadySnapshot(ledger);
  const { id: reservationId } = reserve(ledger, { kind: "warm", shape, budgets: roomy });
  const key = { templateId: "t1", buildId: "b1", runtimeProfile: "default" };
  const { id } = insertWarmEntry(ledger, { ...key, snapshotId: "snap", reservationId });
  discardWarmEntry(ledger, id);
  expect(failureOf(() => checkOutWarmEntry(ledger, id, "i1")).code).toBe("invalid_state");
  expect(purgeEnded(ledger, { endedBeforeMs: 0, keep: 0 }).warmEntries).toBe(0);
  expect(listWarmEntries(ledger, ["discarded"])).toHaveLength(1);
  release(ledger, reservationId);
  expect(purgeEnded(ledger, { endedBeforeMs: 0, keep: 0 })).toMatchObject({ warmEntries: 1, reservations: 1 });
});
