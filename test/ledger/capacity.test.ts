import { expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import {
  type CapacityBudgets,
  getReservation,
  listUnownedReservations,
  promote,
  release,
  reserve,
  usage,
} from "../../src/ledger/capacity.ts";
import { addReadySnapshot, addSandbox, failureOf, memoryLedger, roomy, shape } from "./support.ts";

const budgets: CapacityBudgets = { vcpuCount: 8, memoryMiB: 2048, diskMiB: 10_240, sandboxes: 3 };

test("a reservation is counted in its pool until it is released", () => {
  const ledger = memoryLedger();
  const nothing = { vcpuCount: 0, memoryMiB: 0, diskMiB: 0, sandboxes: 0 };
  const one = { ...shape, sandboxes: 1 };
  const active = reserve(ledger, { kind: "active", shape, budgets, sandboxId: "i1" });
  const warm = reserve(ledger, { kind: "warm", shape, budgets });
  expect(usage(ledger)).toEqual({ active: one, warm: one });
  expect(getReservation(ledger, active.id)).toEqual(active);
  release(ledger, active.id);
  expect(usage(ledger)).toEqual({ active: nothing, warm: one });
  promote(ledger, warm.id, "i2");
  expect(usage(ledger)).toEqual({ active: one, warm: nothing });
  expect(getReservation(ledger, warm.id)).toEqual({ ...warm, kind: "active", sandboxId: "i2" });
});

test("a reservation is released exactly once", () => {
  const ledger = memoryLedger();
  const { id } = reserve(ledger, { kind: "active", shape, budgets });
  expect([release(ledger, id), release(ledger, id), release(ledger, "unknown")]).toEqual([true, false, false]);
});

test.each([
  ["sandboxes", {}, 3, "you have reached the maximum number of concurrent E2B sandboxes (3): end or pause one"],
  ["vcpuCount", { vcpuCount: 7 }, 2, "not enough vCPUs left: the sandbox needs 7, 4 of 8 are free"],
  ["memoryMiB", { memoryMiB: 1025 }, 2, "not enough memory left: the sandbox needs 1025 MiB, 1024 MiB of 2048 MiB"],
  ["diskMiB", { diskMiB: 9000 }, 2, "not enough disk left: the sandbox needs 9000 MiB, 8192 MiB of 10240 MiB are free"],
])("a shortage of %s is named with its figures", (dimension, larger, taken, message) => {
  const ledger = memoryLedger();
  for (let n = 0; n < taken; n += 1) reserve(ledger, { kind: n === 0 ? "warm" : "active", shape, budgets });
  const failure = capacityFailure(() => reserve(ledger, { kind: "active", shape: { ...shape, ...larger }, budgets }));
  expect(failure.message).toContain(message);
  expect(failure.details).toMatchObject({ dimension, oversized: false });
  expect(usage(ledger).active.sandboxes + usage(ledger).warm.sandboxes).toBe(taken);
});

test("the error of a request that could never fit says so, although other budgets are short too", () => {
  const ledger = memoryLedger();
  for (let n = 0; n < 3; n += 1) reserve(ledger, { kind: "active", shape, budgets });
  const failure = capacityFailure(() =>
    reserve(ledger, { kind: "active", shape: { ...shape, memoryMiB: 4096 }, budgets }),
  );
  expect(failure.message).toBe(
    "a sandbox of this size can never start here: it needs 4096 MiB of memory, the whole budget is 2048 MiB",
  );
  expect(failure.details).toEqual({
    dimension: "memoryMiB",
    requested: 4096,
    available: 512,
    limit: 2048,
    oversized: true,
  });
});

test("a budget that was lowered below its usage leaves nothing, and not less than nothing", () => {
  const ledger = memoryLedger();
  for (let n = 0; n < 3; n += 1) reserve(ledger, { kind: "active", shape, budgets });
  const lowered = { ...budgets, memoryMiB: 1024, sandboxes: 9 };
  const { details } = capacityFailure(() => reserve(ledger, { kind: "active", shape, budgets: lowered }));
  expect(details).toMatchObject({ dimension: "memoryMiB", available: 0, limit: 1024 });
});

test("only a warm reservation that is held can be promoted", () => {
  const ledger = memoryLedger();
  const warm = reserve(ledger, { kind: "warm", shape, budgets });
  promote(ledger, warm.id, "i1");
  expect(failureOf(() => promote(ledger, warm.id, "i2")).code).toBe("invalid_state");
  const given = reserve(ledger, { kind: "warm", shape, budgets });
  release(ledger, given.id);
  expect(failureOf(() => promote(ledger, given.id, "i2")).code).toBe("invalid_state");
});

test("a sandbox never holds two reservations", () => {
  const ledger = memoryLedger();
  const first = reserve(ledger, { kind: "active", shape, budgets, sandboxId: "i1" });
  const warm = reserve(ledger, { kind: "warm", shape, budgets });
  const again = () => reserve(ledger, { kind: "active", shape, budgets, sandboxId: "i1" });
  expect(failureOf(again).code).toBe("already_exists");
  expect(failureOf(() => promote(ledger, warm.id, "i1")).code).toBe("already_exists");
  release(ledger, first.id);
  expect(again().sandboxId).toBe("i1");
});

test("held reservations without an owner are found", () => {
  const ledger = memoryLedger();
  addReadySnapshot(ledger);
  addSandbox(ledger, "i1");
  expect(listUnownedReservations(ledger)).toEqual([]);
  const build = reserve(ledger, { kind: "active", shape, budgets: roomy });
  expect(listUnownedReservations(ledger)).toEqual([build]);
  release(ledger, build.id);
  expect(listUnownedReservations(ledger)).toEqual([]);
});

function capacityFailure(action: () => unknown): DomainError {
  try {
    action();
  } catch (error) {
    if (error instanceof DomainError && error.code === "capacity_exhausted") return error;
    throw error;
  }
  throw new Error("it did not fail");
}
