/**
 * The seed's RuntimeContinuationSnapshotCapture: a live session saved as a durable snapshot that keeps why it was taken,
 * and the removal of one that nothing needs any more. Whose sandbox it is and what becomes of it is decided elsewhere.
 */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import type { Clock } from "../../clock.ts";
import type { Ledger } from "../../ledger/open.ts";
import {
  deleteContinuation,
  registerSnapshot,
  type SnapshotFacts,
  type SnapshotRecord,
} from "../../ledger/snapshots.ts";
import type { CaptureScenario, ReachStep } from "../../lifecycle-steps.ts";
import { removeSnapshot } from "../../machine/snapshot-files.ts";
import { factsOf } from "../../template/snapshot-facts.ts";
import type { LifecycleSamples } from "../lifecycle-samples.ts";
import type { LiveSession } from "../sessions/live-session.ts";

export interface CaptureDependencies {
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly samples: LifecycleSamples;
  readonly reach: ReachStep;
  /** Folder of all snapshots, in the state folder. */
  readonly snapshotsFolder: string;
}

/** A name, and the folder of that name, for a snapshot to be made. */
export function newSnapshotPlace(snapshotsFolder: string): { id: string; folder: string } {
  const id = randomUUID();
  return { id, folder: join(snapshotsFolder, id) };
}

/** Whether a name may be one of {@link newSnapshotPlace}. */
export const isSnapshotId = (name: string) => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(name);

/** Names a continuation of a sandbox before anything of it exists. Call it in the write that says what it is for. */
export function registerContinuation(
  { ledger, snapshotsFolder }: CaptureDependencies,
  sandboxId: string,
  reason: string,
): SnapshotRecord {
  const place = newSnapshotPlace(snapshotsFolder);
  return registerSnapshot(ledger, { ...place, kind: "continuation", logicalId: sandboxId, reason });
}

/**
 * Stops the session's machine and saves it into the snapshot's folder, whole and synced. The machine stays stopped.
 * @throws what the engine says; the folder is not there then
 */
export async function captureSession(
  { clock, samples, reach }: CaptureDependencies,
  { vm, bootId, sandboxId }: Pick<LiveSession, "vm" | "bootId" | "sandboxId">,
  { folder }: SnapshotRecord,
  options: { isLast: boolean; scenario: CaptureScenario; memory?: boolean },
): Promise<SnapshotFacts> {
  const startedMs = clock.monotonicMs();
  try {
    const { scenario, ...what } = options;
    reach(`${scenario}.registered`);
    await vm.pause();
    reach(`${scenario}.stopped`);
    const manifest = await vm.saveSnapshot(folder, { bootId, ...what });
    reach(`${scenario}.saved`);
    samples.record("snapshot_save", scenario, clock.monotonicMs() - startedMs, sandboxId);
    return factsOf(manifest);
  } catch (error) {
    // The save may have failed after the folder got its name: whoever finds it must not take it for a snapshot.
    await removeSnapshot(folder);
    throw error;
  }
}

/** Removes a continuation that nothing is restored from any more: the ledger first, then its files. */
export async function discardContinuation(ledger: Ledger, snapshot: SnapshotRecord): Promise<void> {
  deleteContinuation(ledger, snapshot.id);
  await removeStruckOff(ledger, snapshot);
}

/** Removes the files of a snapshot that was struck off: not before power loss could not bring back who needs them. */
export async function removeStruckOff(ledger: Ledger, { folder }: SnapshotRecord): Promise<void> {
  await ledger.sync();
  await removeSnapshot(folder);
}
