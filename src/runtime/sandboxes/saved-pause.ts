/** A saved pause: the sandbox's machine ends, and the sandbox rests in the snapshot that was saved. */
import { daemonStopping } from "../../errors.ts";
import type { Ledger } from "../../ledger/open.ts";
import { moveSandbox } from "../../ledger/sandboxes.ts";
import { markSnapshotReady, type SnapshotFacts, type SnapshotRecord } from "../../ledger/snapshots.ts";
import type { Vm } from "../../machine/driver.ts";
import type { SandboxRecord } from "../../types.ts";
import type { SandboxContext } from "./context.ts";

export interface SavedPause {
  /** In state `pausing` or `paused_in_memory`. */
  readonly record: SandboxRecord;
  readonly snapshot: SnapshotRecord;
  readonly facts: SnapshotFacts;
  readonly pausedAtMs: number;
}

/** Writes down, durably, that a sandbox rests in a complete snapshot and has no machine any more. */
export function publishPause(ledger: Ledger, { record, snapshot, facts, pausedAtMs }: SavedPause): SandboxRecord {
  return ledger.writeDurably(() => {
    markSnapshotReady(ledger, snapshot.id, facts);
    const change = { machine: null, snapshotId: snapshot.id, endAtMs: pausedAtMs };
    return moveSandbox(ledger, record.id, record.state, "paused", change);
  });
}

/**
 * Ends the machine of a saved pause, and publishes the pause. There is no way back, because the disk belongs to the
 * snapshot now.
 * @throws DomainError `not_ready` when the daemon stops meanwhile; the next daemon finds the whole snapshot
 */
export async function completePause({ deps, registry }: SandboxContext, vm: Vm, saved: SavedPause): Promise<void> {
  const { ledger, unfinishedWork, reach } = deps;
  const done = await unfinishedWork.untilDone({ sandboxID: saved.record.id }, async () => {
    await vm.terminate();
    reach("pause.ended");
    registry.change(publishPause(ledger, saved), undefined);
  });
  if (!done) throw daemonStopping();
  reach("pause.published");
}
