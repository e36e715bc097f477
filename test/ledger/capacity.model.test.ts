/**
 * Random sequences of reservations, promotions, releases and crashes, against a model of the sums that must be held.
 */
import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { isDomainError } from "../../src/errors.ts";
import {
  type CapacityBudgets,
  getReservation,
  listUnownedReservations,
  promote,
  type ReservationKind,
  release,
  reserve,
  usage,
} from "../../src/ledger/capacity.ts";
import type { MachineShape } from "../../src/types.ts";
import { CrashingLedger } from "./crashing-ledger.ts";
import { temporaryFolder } from "./support.ts";

const budgets: CapacityBudgets = { vcpuCount: 6, memoryMiB: 1000, diskMiB: 5000, sandboxes: 4 };
const dimensions = ["vcpuCount", "memoryMiB", "diskMiB", "sandboxes"] as const;

interface Expected {
  readonly id: string;
  readonly shape: MachineShape;
  kind: ReservationKind;
  held: boolean;
  timesReleased: number;
}
type Model = { reservations: Expected[] };
type Command = fc.Command<Model, CrashingLedger>;

function heldSum(model: Model, dimension: (typeof dimensions)[number], kind?: ReservationKind): number {
  return model.reservations
    .filter((one) => one.held && (kind === undefined || one.kind === kind))
    .reduce((sum, { shape }) => sum + (dimension === "sandboxes" ? 1 : shape[dimension]), 0);
}

/** Checks the ledger against the model after every command. */
function checkInvariants(model: Model, { ledger }: CrashingLedger): void {
  const { active, warm } = usage(ledger);
  for (const dimension of dimensions) {
    expect(active[dimension]).toBe(heldSum(model, dimension, "active"));
    expect(warm[dimension]).toBe(heldSum(model, dimension, "warm"));
    expect(active[dimension] + warm[dimension]).toBeLessThanOrEqual(budgets[dimension]);
  }
  const heldIds = model.reservations.filter(({ held }) => held).map(({ id }) => id);
  expect(new Set(listUnownedReservations(ledger).map(({ id }) => id))).toEqual(new Set(heldIds));
  for (const { timesReleased } of model.reservations) expect(timesReleased).toBeLessThanOrEqual(1);
}

function command(name: string, run: (model: Model, real: CrashingLedger) => void): Command {
  return {
    check: () => true,
    run(model, real) {
      run(model, real);
      checkInvariants(model, real);
    },
    toString: () => name,
  };
}

const reserveOne = (kind: ReservationKind, shape: MachineShape) =>
  command(`reserve ${kind} ${JSON.stringify(shape)}`, (model, { ledger }) => {
    const fits =
      heldSum(model, "sandboxes") < budgets.sandboxes &&
      (["vcpuCount", "memoryMiB", "diskMiB"] as const).every((d) => heldSum(model, d) + shape[d] <= budgets[d]);
    try {
      const { id } = reserve(ledger, { kind, shape, budgets });
      expect(fits).toBe(true);
      model.reservations.push({ id, kind, shape, held: true, timesReleased: 0 });
    } catch (error) {
      if (!isDomainError(error, "capacity_exhausted")) throw error;
      expect(fits).toBe(false);
    }
  });

/** A command on one of the existing reservations. Every number stands for one of them. */
const onOne = (name: string, at: number, run: (one: Expected, real: CrashingLedger) => void): Command => ({
  ...command(`${name} ${at}`, (model, real) => {
    const one = model.reservations[at % model.reservations.length];
    if (one) run(one, real);
  }),
  check: (model) => model.reservations.length > 0,
});

const promoteOne = (at: number) =>
  onOne("promote", at, (one, { ledger }) => {
    const legal = one.held && one.kind === "warm";
    try {
      promote(ledger, one.id, `sandbox of ${one.id}`);
      expect(legal).toBe(true);
      one.kind = "active";
    } catch (error) {
      if (!isDomainError(error)) throw error;
      expect(legal).toBe(false);
    }
  });

const releaseOne = (at: number) =>
  onOne("release", at, (one, { ledger }) => {
    expect(release(ledger, one.id)).toBe(one.held);
    if (one.held) one.timesReleased += 1;
    one.held = false;
    expect(getReservation(ledger, one.id)?.state).toBe("released");
  });

const crash = () => command("crash", (_, real) => real.crash());

const crashWhileReserving = (shape: MachineShape) =>
  command("crash while reserving", (_, real) => {
    const roomyEnough = { ...budgets, vcpuCount: 99, memoryMiB: 9_999, diskMiB: 99_999, sandboxes: 99 };
    real.crashWithin((ledger) => reserve(ledger, { kind: "active", shape, budgets: roomyEnough }));
  });

const crashWhileReleasing = (at: number) =>
  onOne("crash while releasing", at, (one, real) => {
    real.crashWithin((ledger) => release(ledger, one.id));
    expect(getReservation(real.ledger, one.id)?.state).toBe(one.held ? "held" : "released");
  });

test("in every order of commands and crashes the sums are right and below the budgets", () => {
  const folder = temporaryFolder();
  const shape = fc.record({
    vcpuCount: fc.integer({ min: 1, max: 7 }),
    memoryMiB: fc.integer({ min: 1, max: 600 }),
    diskMiB: fc.integer({ min: 0, max: 3000 }),
  });
  const kind = fc.constantFrom<ReservationKind>("active", "warm");
  const commands = fc.commands<Model, CrashingLedger>(
    [
      fc.tuple(kind, shape).map(([k, s]) => reserveOne(k, s)),
      fc.nat({ max: 20 }).map(promoteOne),
      fc.nat({ max: 20 }).map(releaseOne),
      fc.constant(null).map(crash),
      shape.map(crashWhileReserving),
      fc.nat({ max: 20 }).map(crashWhileReleasing),
    ],
    { maxCommands: 40, size: "max" },
  );
  fc.assert(
    fc.property(commands, (sequence) => {
      using real = new CrashingLedger(mkdtempSync(join(folder, "run-")));
      fc.modelRun(() => ({ model: { reservations: [] }, real }), sequence);
    }),
    { numRuns: 60 },
  );
});
