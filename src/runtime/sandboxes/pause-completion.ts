/** The end of every pause that was saved: the machine goes, and the sandbox rests in its snapshot. */
import { DomainError } from "../../errors.ts";
import type { Ledger } from "../../ledger/open.ts";
import { moveSandbox } from "../../ledger/sandboxes.ts";
import { markSnapshotReady, type SnapshotFacts, type SnapshotRecord } from "../../ledger/snapshots.ts";
import type { ReachStep } from "../../lifecycle-steps.ts";
import type { Vm } from "../../machine/driver.ts";
import type { SandboxRecord } from "../../types.ts";
import type { UnfinishedWork } from "../machines/unfinished-work.ts";
import type { SandboxRegistry } from "./registry.ts";

export interface SavedPause {
  /** `pausing` or `paused_in_memory`. */
  readonly record: SandboxRecord;
  readonly snapshot: SnapshotRecord;
  readonly facts: SnapshotFacts;
  /** When it was paused. */
  readonly pausedAtMs: number;
}

/** Says, durably, that a sandbox rests in a complete snapshot and has no machine any more. */
export function finishPause(ledger: Ledger, { record, snapshot, facts, pausedAtMs }: SavedPause): SandboxRecord {
  return ledger.writeDurably(() => {
    markSnapshotReady(ledger, snapshot.id, facts);
    const change = { machine: null, snapshotId: snapshot.id, endAtMs: pausedAtMs };
    return moveSandbox(ledger, record.id, record.state, "paused", change);
  });
}

/**
 * Ends the machine of a pause that was saved, and publishes it. There is no way back: the disk belongs to the snapshot.
 * @throws not_ready when the daemon stops meanwhile: the next one finds the whole snapshot
 */
export async function completePause(
  deps: { readonly ledger: Ledger; readonly terminator: UnfinishedWork; readonly reach: ReachStep },
  registry: SandboxRegistry,
  vm: Vm,
  saved: SavedPause,
): Promise<void> {
  const { ledger, terminator, reach } = deps;
  const done = await terminator.untilDone({ sandboxID: saved.record.id }, async () => {
    await vm.terminate();
    reach("pause.ended");
    registry.change(finishPause(ledger, saved), undefined);
  });
  if (!done) throw new DomainError("not_ready", "The daemon is stopping");
  reach("pause.published");
}
