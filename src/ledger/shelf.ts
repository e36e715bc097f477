/**
 * The shelf holds snapshots that were made ahead, each of a machine of its own, for templates on hosts where one
 * snapshot starts one machine only. A snapshot is put there once it is complete, and one sandbox takes it. A snapshot
 * that left the shelf without a sandbox is a stray continuation, which the next start removes.
 */
import type { Ledger } from "./open.ts";
import {
  markSnapshotReady,
  type SnapshotFacts,
  type SnapshotRecord,
  type SnapshotRow,
  toSnapshot,
} from "./snapshots.ts";

export interface ShelfSave {
  readonly snapshot: SnapshotRecord;
  readonly buildId: string;
}

/** Makes a registered snapshot ready and puts it on the shelf, durably. */
export function putOnShelf(ledger: Ledger, snapshotId: string, buildId: string, facts: SnapshotFacts): void {
  ledger.writeDurably(() => {
    markSnapshotReady(ledger, snapshotId, facts);
    ledger
      .statement("insert into shelf_saves (snapshot_id, build_id) values (:snapshotId, :buildId)")
      .run({ snapshotId, buildId });
  });
}

/** Takes the oldest snapshot of a build, for good. Call it in the write that inserts the sandbox. */
export function takeFromShelf(ledger: Ledger, buildId: string): SnapshotRecord | undefined {
  const row = ledger
    .statement<SnapshotRow>(
      `select s.* from shelf_saves h join snapshots s on s.id = h.snapshot_id
       where h.build_id = :buildId and s.state = 'ready' order by s.created_at_ms, s.id limit 1`,
    )
    .get({ buildId });
  if (!row) return undefined;
  clearFromShelf(ledger, row.id);
  return toSnapshot(row);
}

/** Takes a snapshot off the shelf that no sandbox is restored from. */
export function clearFromShelf(ledger: Ledger, snapshotId: string): void {
  ledger.write(
    () => void ledger.statement("delete from shelf_saves where snapshot_id = :snapshotId").run({ snapshotId }),
  );
}

/** Oldest first. */
export function listShelf(ledger: Ledger): ShelfSave[] {
  return ledger
    .statement<SnapshotRow & { build_id: string }>(
      `select s.*, h.build_id from shelf_saves h join snapshots s on s.id = h.snapshot_id
       order by s.created_at_ms, s.id`,
    )
    .all({})
    .map((row) => ({ snapshot: toSnapshot(row), buildId: row.build_id }));
}
