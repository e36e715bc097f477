/** A saved pause: the sandbox rests in the snapshot that was saved, and its machine, which is of no use now, ends. */
import { daemonStopping } from "../../errors.ts";
import type { Ledger } from "../../ledger/open.ts";
import { forgetMachine, moveSandbox } from "../../ledger/sandboxes.ts";
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

/** Writes down, durably, that a sandbox rests in a complete snapshot. Its machine may still exist. */
export function publishPause(ledger: Ledger, { record, snapshot, facts, pausedAtMs }: SavedPause): SandboxRecord {
  return ledger.writeDurably(() => {
    markSnapshotReady(ledger, snapshot.id, facts);
    return moveSandbox(ledger, record.id, record.state, "paused", { snapshotId: snapshot.id, endAtMs: pausedAtMs });
  });
}

/**
 * Publishes a saved pause, and ends the machine, which cannot go on: its disk belongs to the snapshot now.
 * @param onPublished called when the pause is durable and clients see it, and before the machine ends
 * @throws DomainError `not_ready` when the daemon stops meanwhile; the next daemon goes on from the ledger
 */
export async function completePause(
  { deps, registry }: SandboxContext,
  vm: Vm,
  saved: SavedPause,
  onPublished: () => void = () => {},
): Promise<void> {
  const { ledger, unfinishedWork, reach } = deps;
  const { id } = saved.record;
  const inTime = async (step: () => Promise<void>) => {
    if (!(await unfinishedWork.untilDone({ sandboxID: id }, step))) throw daemonStopping();
  };
  await inTime(async () => void registry.change(publishPause(ledger, saved), undefined));
  reach("pause.published");
  onPublished();
  await inTime(async () => {
    await vm.terminate();
    reach("pause.ended");
    registry.update(forgetMachine(ledger, id));
  });
}
