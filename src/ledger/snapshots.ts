/**
 * The catalogue of snapshots names every snapshot folder, its origin, and whether a machine may be restored from it. A
 * snapshot is registered before its folder is made, and ready only when all of it is on the disk.
 */
import { z } from "zod";
import { DomainError } from "../errors.ts";
import { type Acceleration, accelerations, type EngineName, engineNames } from "../types.ts";
import { fromJson } from "./json-columns.ts";
import { type Lifecycle, moveRow } from "./moves.ts";
import type { Ledger } from "./open.ts";

export type SnapshotState =
  /** Registered. Its folder is missing or half-written. */
  | "making"
  /** Whole and synced to the disk: machines may be restored from it. */
  | "ready"
  /** Damaged, or left half-made: kept with its reason, and never restored. */
  | "quarantined"
  /** Struck off: its folder may be removed. */
  | "deleted";

const lifecycle: Lifecycle<SnapshotState> = {
  table: "snapshots",
  nextStates: {
    making: ["ready", "quarantined", "deleted"],
    ready: ["quarantined", "deleted"],
    quarantined: ["ready", "deleted"],
    deleted: [],
  },
};
/** A snapshot may be struck off in every state, and more than once. */
const anyState = Object.keys(lifecycle.nextStates) as SnapshotState[];

export type SnapshotKind = "template" | "continuation";

/** The facts of a snapshot, known once it is complete. */
export interface SnapshotFacts {
  readonly engine: EngineName;
  readonly engineVersion: string;
  readonly acceleration: Acceleration;
  readonly cpuModel: string;
  /** 0: the snapshot has only a disk, to boot from. */
  readonly memoryBytes: number;
  readonly devicesBytes: number;
  readonly diskBytes: number;
  /** Digest of `manifest.json`, in hexadecimal. */
  readonly manifestSha256: string;
}

export interface SnapshotRecord {
  readonly id: string;
  readonly kind: SnapshotKind;
  /** The template or the sandbox that it is a snapshot of. */
  readonly logicalId: string;
  /** The sandbox that a template's snapshot was taken of; null when the template was built. */
  readonly sandboxId: string | null;
  readonly folder: string;
  readonly state: SnapshotState;
  /** Never null when ready. */
  readonly facts: SnapshotFacts | null;
  /** The reason of a continuation: stopped, idle, exited. */
  readonly reason: string | null;
  /** Boot id of the machine that stands still until it can be saved into this snapshot; null when no machine does. */
  readonly bootId: string | null;
  readonly quarantineReason: string | null;
  readonly quarantinedAtMs: number | null;
  readonly createdAtMs: number;
}

export type NewSnapshot = Pick<SnapshotRecord, "id" | "kind" | "logicalId" | "folder" | "reason"> & {
  readonly sandboxId?: string;
};

/** A row of `snapshots`, as other tables of the ledger join it. */
export interface SnapshotRow {
  readonly id: string;
  readonly kind: SnapshotKind;
  readonly logical_id: string;
  readonly sandbox_id: string | null;
  readonly folder: string;
  readonly state: SnapshotState;
  readonly facts: string | null;
  readonly reason: string | null;
  readonly boot_id: string | null;
  readonly quarantine_reason: string | null;
  readonly quarantined_at_ms: number | null;
  readonly created_at_ms: number;
}

const snapshotFacts: z.ZodType<SnapshotFacts> = z.object({
  engine: z.enum(engineNames),
  engineVersion: z.string(),
  acceleration: z.enum(accelerations),
  cpuModel: z.string(),
  memoryBytes: z.number(),
  devicesBytes: z.number(),
  diskBytes: z.number(),
  manifestSha256: z.string(),
});

/** Names a snapshot that is about to be made. Call it before its folder exists. */
export function registerSnapshot(ledger: Ledger, snapshot: NewSnapshot): SnapshotRecord {
  const { id, kind, logicalId, sandboxId = null, folder, reason } = snapshot;
  const createdAtMs = ledger.nowMs();
  ledger.write(() => {
    ledger
      .statement(
        `insert into snapshots (id, kind, logical_id, sandbox_id, folder, state, reason, created_at_ms)
         values (:id, :kind, :logicalId, :sandboxId, :folder, 'making', :reason, :createdAtMs)`,
      )
      .run({ id, kind, logicalId, sandboxId, folder, reason, createdAtMs });
  });
  return {
    ...snapshot,
    sandboxId,
    state: "making",
    facts: null,
    bootId: null,
    quarantineReason: null,
    quarantinedAtMs: null,
    createdAtMs,
  };
}

/**
 * Makes a snapshot ready whose files are complete and synced to the disk, durably.
 * @throws invalid_state when the snapshot is not being made
 */
export function markSnapshotReady(ledger: Ledger, id: string, facts: SnapshotFacts): void {
  ledger.writeDurably(() => {
    const set = { facts: JSON.stringify(facts) };
    const moved = moveRow(ledger, lifecycle, { id, from: ["making"], to: "ready", set });
    if (!moved) throw wrongState(ledger, id, "being made");
  });
}

/**
 * Sets a snapshot aside that is damaged or was left half-made. Its folder stays, so that a person can look at it.
 * @throws invalid_state when the snapshot is neither being made nor ready
 */
export function quarantineSnapshot(ledger: Ledger, id: string, reason: string): void {
  ledger.write(() => {
    const set = { quarantine_reason: reason, quarantined_at_ms: ledger.nowMs() };
    const moved = moveRow(ledger, lifecycle, { id, from: ["making", "ready"], to: "quarantined", set });
    if (!moved) throw wrongState(ledger, id, "being made or ready");
  });
}

/**
 * Makes a quarantined snapshot ready again that was found whole, durably.
 * @throws invalid_state when the snapshot is not quarantined, or was never complete
 */
export function releaseSnapshot(ledger: Ledger, id: string): void {
  ledger.writeDurably(() => {
    const set = { quarantine_reason: null, quarantined_at_ms: null };
    const move = { id, from: ["quarantined"], to: "ready", set, when: "facts is not null" } as const;
    if (!moveRow(ledger, lifecycle, move)) throw wrongState(ledger, id, "complete and quarantined");
  });
}

/**
 * Strikes a snapshot off, so that its folder may be removed. Idempotent. A warm entry that is ready does not need it,
 * because its machine has links of its own to all files it maps; nor does a sandbox that is ending.
 * @throws failed_precondition when a sandbox, a tagged build, a layer of builds or a warming entry needs the snapshot;
 *   not_found
 */
export function deleteSnapshot(ledger: Ledger, id: string): void {
  ledger.write(() => {
    const when = `not exists (
        select 1 from sandboxes where snapshot_id = :id and state not in ('terminating', 'terminated'))
      and not exists (select 1 from warm_entries where snapshot_id = :id and state = 'warming')
      and not exists (select 1 from build_layers where snapshot_id = :id)
      and not exists (
        select 1 from template_builds b join template_tags t on t.build_id = b.id where b.snapshot_id = :id)`;
    if (moveRow(ledger, lifecycle, { id, from: anyState, to: "deleted", when })) return;
    if (!getSnapshot(ledger, id)) throw unknown(id);
    throw new DomainError("failed_precondition", `Snapshot ${id} is in use: it cannot be deleted`, { id });
  });
}

/**
 * Strikes a continuation off from which no machine is being restored, so that its folder may be removed. Idempotent. A
 * running machine does not need the snapshot it came from.
 * @throws failed_precondition when a paused sandbox needs the continuation; not_found
 */
export function deleteContinuation(ledger: Ledger, id: string): void {
  ledger.write(() => {
    const when = `kind = 'continuation' and not exists (
      select 1 from sandboxes where snapshot_id = :id and state in ('paused', 'resuming'))`;
    if (moveRow(ledger, lifecycle, { id, from: anyState, to: "deleted", when })) return;
    if (!getSnapshot(ledger, id)) throw unknown(id);
    throw new DomainError("failed_precondition", `Continuation ${id} is in use: it cannot be deleted`, { id });
  });
}

/**
 * Continuations from which no machine will ever be restored, when no save or restore is under way. Continuations of a
 * sandbox that is still being paused, or waits to be saved, are not among them; nor are those that wait on the shelf.
 */
export function listStrayContinuations(ledger: Ledger): SnapshotRecord[] {
  return ledger
    .statement<SnapshotRow>(
      `select * from snapshots s where kind = 'continuation' and state in ('making', 'ready')
       and not exists (select 1 from shelf_saves where snapshot_id = s.id) and not exists (
         select 1 from sandboxes where (snapshot_id = s.id and state in ('paused', 'resuming'))
         or (id = s.logical_id and state in ('pausing', 'paused_in_memory')))`,
    )
    .all({})
    .map(toSnapshot);
}

/**
 * Notes the boot id of a machine that stands still until it can be saved, because it cannot be asked for it later.
 * @throws invalid_state when the snapshot is not being made
 */
export function noteBootId(ledger: Ledger, id: string, bootId: string): void {
  ledger.write(() => {
    const noted = moveRow(ledger, lifecycle, { id, from: ["making"], to: "making", set: { boot_id: bootId } });
    if (!noted) throw wrongState(ledger, id, "being made");
  });
}

/** The newest unfinished continuation of a sandbox that was being paused, or waits to be saved. */
export function findContinuationInMaking(ledger: Ledger, sandboxId: string): SnapshotRecord | undefined {
  const row = ledger
    .statement<SnapshotRow>(
      `select * from snapshots where kind = 'continuation' and logical_id = :sandboxId and state = 'making'
       order by created_at_ms desc, rowid desc limit 1`,
    )
    .get({ sandboxId });
  return row && toSnapshot(row);
}

/** The snapshot in a folder that is not deleted. There is at most one. */
export function findSnapshotByFolder(ledger: Ledger, folder: string): SnapshotRecord | undefined {
  const row = ledger
    .statement<SnapshotRow>("select * from snapshots where folder = :folder and state <> 'deleted'")
    .get({ folder });
  return row && toSnapshot(row);
}

export function getSnapshot(ledger: Ledger, id: string): SnapshotRecord | undefined {
  const row = ledger.statement<SnapshotRow>("select * from snapshots where id = :id").get({ id });
  return row && toSnapshot(row);
}

/** The snapshots in one of `states`, oldest first. */
export function listSnapshots(ledger: Ledger, states: readonly SnapshotState[]): SnapshotRecord[] {
  return ledger
    .statement<SnapshotRow>(
      `select * from snapshots where state in (select value from json_each(:states)) order by created_at_ms, id`,
    )
    .all({ states: JSON.stringify(states) })
    .map(toSnapshot);
}

/** @throws failed_precondition with the snapshot's id and the reason when it is not ready; not_found */
export function refuseUnreadySnapshot(ledger: Ledger, id: string): void {
  const snapshot = getSnapshot(ledger, id);
  if (!snapshot) throw unknown(id);
  const { state, quarantineReason } = snapshot;
  if (state === "ready") return;
  const why = quarantineReason === null ? state : `${state}: ${quarantineReason}`;
  throw new DomainError("failed_precondition", `Snapshot ${id} cannot be restored, it is ${why}`, { id, state });
}

export function toSnapshot(row: SnapshotRow): SnapshotRecord {
  return {
    id: row.id,
    kind: row.kind,
    logicalId: row.logical_id,
    sandboxId: row.sandbox_id,
    folder: row.folder,
    state: row.state,
    facts: row.facts === null ? null : fromJson(snapshotFacts, row.facts, `snapshots.facts of ${row.id}`),
    reason: row.reason,
    bootId: row.boot_id,
    quarantineReason: row.quarantine_reason,
    quarantinedAtMs: row.quarantined_at_ms,
    createdAtMs: row.created_at_ms,
  };
}

function wrongState(ledger: Ledger, id: string, wanted: string): DomainError {
  const snapshot = getSnapshot(ledger, id);
  if (!snapshot) return unknown(id);
  const { state } = snapshot;
  return new DomainError("invalid_state", `Snapshot ${id} is not ${wanted}, it is ${state}`, { id, state });
}

function unknown(id: string): DomainError {
  return new DomainError("not_found", `There is no snapshot ${id}`, { id });
}
