/**
 * Reservations are shares of the host, reserved before a machine starts and released after it is gone. The sum of the
 * held ones never exceeds the budgets, in whatever order processes act and die. Two pools, *active* and *warm*, share
 * one set of budgets, so that promoting a warm reservation can never fail for want of room.
 */
import { randomUUID } from "node:crypto";
import { DomainError } from "../errors.ts";
import type { MachineShape } from "../types.ts";
import { type Lifecycle, moveRow } from "./moves.ts";
import type { Ledger } from "./open.ts";

export type ReservationKind = "active" | "warm";

export type ReservationState =
  /** Counts against the budgets. A warm reservation that is promoted stays held. */
  | "held"
  /** The share was given back; the row is history. */
  | "released";

const lifecycle: Lifecycle<ReservationState> = {
  table: "reservations",
  nextStates: {
    held: ["released"],
    released: [],
  },
};

export interface Reservation {
  readonly id: string;
  readonly kind: ReservationKind;
  /** The sandbox of an active reservation. Null for a warm one, and for work without a sandbox (template builds). */
  readonly sandboxId: string | null;
  readonly shape: MachineShape;
  readonly createdAtMs: number;
  readonly state: ReservationState;
}

/**
 * The most that may be held at once. vCPUs may be promised more than once: the budget is a policy, not the core count.
 */
export interface CapacityBudgets {
  readonly vcpuCount: number;
  readonly memoryMiB: number;
  readonly diskMiB: number;
  /** Machines of every kind, warm ones included. */
  readonly sandboxes: number;
}

export type CapacityDimension = keyof CapacityBudgets;

export interface PoolUsage extends MachineShape {
  readonly sandboxes: number;
}

export interface CapacityUsage {
  readonly active: PoolUsage;
  readonly warm: PoolUsage;
}

/** The details of a `capacity_exhausted` error. */
export interface CapacityShortage {
  readonly dimension: CapacityDimension;
  readonly requested: number;
  readonly available: number;
  readonly limit: number;
  /** The request exceeds the whole budget, so waiting does not help. */
  readonly oversized: boolean;
}

export interface ReservationRequest {
  readonly kind: ReservationKind;
  readonly shape: MachineShape;
  readonly budgets: CapacityBudgets;
  /** Only with kind `active`. */
  readonly sandboxId?: string;
}

interface ReservationRow {
  readonly id: string;
  readonly kind: ReservationKind;
  readonly sandbox_id: string | null;
  readonly vcpu_count: number;
  readonly memory_mib: number;
  readonly disk_mib: number;
  readonly created_at_ms: number;
  readonly state: ReservationState;
}

/**
 * Holds a share of the host. To make a sandbox, call it in one `ledger.write` with `insertSandbox`.
 * @throws capacity_exhausted with a {@link CapacityShortage}; already_exists when the sandbox holds a share already.
 */
export function reserve(ledger: Ledger, request: ReservationRequest): Reservation {
  const { kind, shape, budgets, sandboxId = null } = request;
  return ledger.write(() => {
    const shortage = findShortage(usage(ledger), shape, budgets);
    if (shortage) throw capacityExhausted(shortage);
    if (sandboxId !== null) refuseSecondReservation(ledger, sandboxId);
    const id = randomUUID();
    const createdAtMs = ledger.nowMs();
    ledger
      .statement(
        `insert into reservations (id, kind, state, sandbox_id, vcpu_count, memory_mib, disk_mib, created_at_ms)
         values (:id, :kind, 'held', :sandboxId, :vcpuCount, :memoryMiB, :diskMiB, :createdAtMs)`,
      )
      .run({ id, kind, sandboxId, ...shape, createdAtMs });
    return { id, kind, sandboxId, shape, createdAtMs, state: "held" };
  });
}

/**
 * Makes a warm reservation the active one of a sandbox.
 * @throws invalid_state when it is not warm and held.
 */
export function promote(ledger: Ledger, id: string, sandboxId: string): void {
  ledger.write(() => {
    refuseSecondReservation(ledger, sandboxId);
    const set = { kind: "active", sandbox_id: sandboxId };
    if (moveRow(ledger, lifecycle, { id, from: ["held"], to: "held", set, when: "kind = 'warm'" })) return;
    throw new DomainError("invalid_state", `Reservation ${id} is not a warm one that is held`, { id });
  });
}

/** Gives a share back. True once; false when the reservation was released before or is unknown. */
export function release(ledger: Ledger, id: string): boolean {
  return moveRow(ledger, lifecycle, { id, from: ["held"], to: "released", set: { released_at_ms: ledger.nowMs() } });
}

export function getReservation(ledger: Ledger, id: string): Reservation | undefined {
  const row = ledger.statement<ReservationRow>("select * from reservations where id = :id").get({ id });
  return row && toReservation(row);
}

const nothing: PoolUsage = { vcpuCount: 0, memoryMiB: 0, diskMiB: 0, sandboxes: 0 };

/** The sums of the held reservations, by pool. */
export function usage(ledger: Ledger): CapacityUsage {
  const pools = ledger
    .statement<PoolUsage & { kind: ReservationKind }>(
      `select kind, sum(vcpu_count) as vcpuCount, sum(memory_mib) as memoryMiB, sum(disk_mib) as diskMiB,
              count(*) as sandboxes
       from reservations where state = 'held' group by kind`,
    )
    .all({});
  const pool = (wanted: ReservationKind): PoolUsage => {
    const { kind: _, ...sums } = pools.find(({ kind }) => kind === wanted) ?? { kind: wanted, ...nothing };
    return sums;
  };
  return { active: pool("active"), warm: pool("warm") };
}

/** What is held for sandboxes that are killed or paused already, and that is released once their machines have ended. */
export function leavingUsage(ledger: Ledger): PoolUsage {
  return (
    ledger
      .statement<PoolUsage>(
        `select coalesce(sum(r.vcpu_count), 0) as vcpuCount, coalesce(sum(r.memory_mib), 0) as memoryMiB,
                coalesce(sum(r.disk_mib), 0) as diskMiB, count(*) as sandboxes
         from reservations r join sandboxes s on s.reservation_id = r.id
         where r.state = 'held' and s.state in ('terminating', 'paused')`,
      )
      .get({}) ?? nothing
  );
}

/**
 * Held reservations that no live sandbox, no warm entry and no unfinished template build owns, oldest first. After a
 * restart they belong to work that died half way (the first boot of `base`, say). Reconciliation releases them once it
 * knows that no machine uses them.
 */
export function listUnownedReservations(ledger: Ledger): Reservation[] {
  return ledger
    .statement<ReservationRow>(
      `select * from reservations r where state = 'held'
       and not exists (select 1 from sandboxes s where s.reservation_id = r.id and s.state <> 'terminated')
       and not exists (select 1 from warm_entries w where w.reservation_id = r.id and w.state <> 'checked_out')
       and not exists (select 1 from template_build_jobs j where j.reservation_id = r.id and j.state = 'building')
       order by created_at_ms, id`,
    )
    .all({})
    .map(toReservation);
}

/** The first budget that has no room for `shape`, or undefined when all budgets have room. */
export function findShortage(
  { active, warm }: CapacityUsage,
  shape: MachineShape,
  budgets: CapacityBudgets,
): CapacityShortage | undefined {
  const requests: readonly (readonly [CapacityDimension, number])[] = [
    ["sandboxes", 1],
    ["vcpuCount", shape.vcpuCount],
    ["memoryMiB", shape.memoryMiB],
    ["diskMiB", shape.diskMiB],
  ];
  const shortages = requests.flatMap(([dimension, requested]) => {
    const limit = budgets[dimension];
    // A budget may have been lowered below what is in use.
    const available = Math.max(0, limit - active[dimension] - warm[dimension]);
    return requested > available ? [{ dimension, requested, available, limit, oversized: requested > limit }] : [];
  });
  return shortages.find(({ oversized }) => oversized) ?? shortages[0];
}

const resources = { vcpuCount: ["vCPUs", ""], memoryMiB: ["memory", " MiB"], diskMiB: ["disk", " MiB"] } as const;

/**
 * The error that names the budget without room, the request and the rest. `note` is appended and says what was tried.
 */
export function capacityExhausted(shortage: CapacityShortage, note = "", details = {}): DomainError {
  return new DomainError("capacity_exhausted", describeShortage(shortage) + note, { ...shortage, ...details });
}

function describeShortage({ dimension, requested, available, limit, oversized }: CapacityShortage): string {
  if (dimension === "sandboxes") {
    // The beginning is E2B's own sentence, which clients may know.
    const reached = `you have reached the maximum number of concurrent E2B sandboxes (${limit})`;
    return `${reached}: end or pause one, or raise the limit`;
  }
  const [resource, unit] = resources[dimension];
  const needs = `needs ${requested}${unit}`;
  if (oversized) {
    return (
      `a sandbox of this size can never start here: it ${needs} of ${resource}, ` +
      `the whole budget is ${limit}${unit}`
    );
  }
  return (
    `not enough ${resource} left: the sandbox ${needs}, ` +
    `${available}${unit} of ${limit}${unit} are free; end or pause another one`
  );
}

function refuseSecondReservation(ledger: Ledger, sandboxId: string): void {
  const held = ledger
    .statement<{ id: string }>("select id from reservations where sandbox_id = :sandboxId and state = 'held'")
    .get({ sandboxId });
  if (held) throw new DomainError("already_exists", `Sandbox ${sandboxId} holds reservation ${held.id} already`, held);
}

function toReservation(row: ReservationRow): Reservation {
  return {
    id: row.id,
    kind: row.kind,
    sandboxId: row.sandbox_id,
    shape: { vcpuCount: row.vcpu_count, memoryMiB: row.memory_mib, diskMiB: row.disk_mib },
    createdAtMs: row.created_at_ms,
    state: row.state,
  };
}
