/** Warm entries: machines that were restored ahead of demand and wait to be checked out. */
import { randomUUID } from "node:crypto";
import { DomainError } from "../errors.ts";
import type { MachineRecord } from "../types.ts";
import { promote } from "./capacity.ts";
import { machineFromJson, machineToJson } from "./json-columns.ts";
import { type Lifecycle, moveRow } from "./moves.ts";
import type { Ledger } from "./open.ts";

export type WarmEntryState =
  /** Holds its reservation; its machine is being restored. */
  | "warming"
  /** In the pool: the next create may take it. */
  | "ready"
  /** A sandbox has the machine, and the reservation. */
  | "checked_out"
  /** Out of the pool. It keeps its reservation until its machine is gone and `release` is called. */
  | "discarded";

const lifecycle: Lifecycle<WarmEntryState> = {
  table: "warm_entries",
  nextStates: {
    warming: ["ready", "discarded"],
    ready: ["checked_out", "discarded"],
    checked_out: [],
    discarded: [],
  },
};

/** Warm entries with the same key are interchangeable. */
export interface WarmEntryKey {
  readonly templateId: string;
  readonly buildId: string;
  readonly runtimeProfile: string;
}

export interface WarmEntry extends WarmEntryKey {
  readonly id: string;
  readonly snapshotId: string;
  readonly state: WarmEntryState;
  readonly reservationId: string;
  /** Known as soon as there is a machine. Never null when ready. */
  readonly machine: MachineRecord | null;
  readonly createdAtMs: number;
}

interface WarmEntryRow {
  readonly id: string;
  readonly template_id: string;
  readonly build_id: string;
  readonly runtime_profile: string;
  readonly snapshot_id: string;
  readonly state: WarmEntryState;
  readonly reservation_id: string;
  readonly machine: string | null;
  readonly created_at_ms: number;
}

/**
 * Adds an entry in state `warming`. Call it in one `ledger.write` with `reserve`.
 * @throws invalid_state when the reservation is not a warm one that is held; nothing is added
 */
export function insertWarmEntry(
  ledger: Ledger,
  entry: WarmEntryKey & Pick<WarmEntry, "snapshotId" | "reservationId">,
): WarmEntry {
  const { templateId, buildId, runtimeProfile, snapshotId, reservationId } = entry;
  const added = { id: randomUUID(), templateId, buildId, runtimeProfile, snapshotId, reservationId };
  const createdAtMs = ledger.nowMs();
  ledger.write(() => {
    const { changes } = ledger
      .statement(
        `insert into warm_entries (id, template_id, build_id, runtime_profile, snapshot_id, state, reservation_id,
           created_at_ms)
         select :id, :templateId, :buildId, :runtimeProfile, :snapshotId, 'warming', id, :createdAtMs
         from reservations where id = :reservationId and kind = 'warm' and state = 'held'`,
      )
      .run({ ...added, createdAtMs });
    if (changes === 1) return;
    throw new DomainError("invalid_state", `Reservation ${reservationId} is not a warm one that is held`);
  });
  return { ...added, state: "warming", machine: null, createdAtMs };
}

/**
 * Writes down the machine of a warming entry, so that a later daemon finds it after a crash.
 * @throws invalid_state when the entry is not warming any more
 */
export function setWarmEntryMachine(ledger: Ledger, id: string, machine: MachineRecord): void {
  updateWarming(ledger, id, "warming", machine);
}

/**
 * Puts an entry into the pool.
 * @throws invalid_state when the entry is not warming any more
 */
export function markWarmEntryReady(ledger: Ledger, id: string, machine: MachineRecord): void {
  updateWarming(ledger, id, "ready", machine);
}

/**
 * Takes a ready entry out of the pool for a sandbox, and makes its reservation the sandbox's. Call it in one
 * `ledger.write` with `insertSandbox`.
 * @throws invalid_state when the entry is not ready any more; already_exists when the sandbox holds a share already;
 *   the entry stays in the pool
 */
export function checkOutWarmEntry(ledger: Ledger, id: string, sandboxId: string): void {
  ledger.write(() => {
    const row = ledger
      .statement<{ reservation_id: string }>("select reservation_id from warm_entries where id = :id")
      .get({ id });
    const isMoved = moveRow(ledger, lifecycle, { id, from: ["ready"], to: "checked_out" });
    if (!row || !isMoved) throw new DomainError("invalid_state", `Warm entry ${id} is not ready`, { id });
    promote(ledger, row.reservation_id, sandboxId);
  });
}

/** Takes an entry out of the pool for good. True once, and false for an entry that was out already. */
export function discardWarmEntry(ledger: Ledger, id: string): boolean {
  return moveRow(ledger, lifecycle, { id, from: ["warming", "ready"], to: "discarded" });
}

/** The entries in one of `states`, oldest first, which is the order of their eviction. */
export function listWarmEntries(ledger: Ledger, states: readonly WarmEntryState[]): WarmEntry[] {
  return ledger
    .statement<WarmEntryRow>(
      `select * from warm_entries where state in (select value from json_each(:states)) order by created_at_ms, rowid`,
    )
    .all({ states: JSON.stringify(states) })
    .map(toWarmEntry);
}

/**
 * The entries with a reservation held for the pool, oldest first. Discarded ones are included, for a new daemon to end.
 */
export function listHeldWarmEntries(ledger: Ledger): WarmEntry[] {
  return ledger
    .statement<WarmEntryRow>(
      `select w.* from warm_entries w join reservations r on r.id = w.reservation_id
       where w.state <> 'checked_out' and r.state = 'held' order by w.created_at_ms, w.rowid`,
    )
    .all({})
    .map(toWarmEntry);
}

function updateWarming(ledger: Ledger, id: string, to: "warming" | "ready", machine: MachineRecord): void {
  const set = { machine: machineToJson(machine) };
  if (moveRow(ledger, lifecycle, { id, from: ["warming"], to, set })) return;
  throw new DomainError("invalid_state", `Warm entry ${id} is not warming`, { id });
}

function toWarmEntry(row: WarmEntryRow): WarmEntry {
  return {
    id: row.id,
    templateId: row.template_id,
    buildId: row.build_id,
    runtimeProfile: row.runtime_profile,
    snapshotId: row.snapshot_id,
    state: row.state,
    reservationId: row.reservation_id,
    machine: machineFromJson(row.machine, `warm_entries.machine of ${row.id}`),
    createdAtMs: row.created_at_ms,
  };
}
