/**
 * The capture of a sandbox's machine as a continuation or a template's snapshot, and the removal of a continuation that
 * nothing needs any more. The callers decide what becomes of the sandbox.
 */
import type { Clock } from "../../clock.ts";
import { saveMachine } from "../../guest-machine/save.ts";
import type { Ledger } from "../../ledger/open.ts";
import {
  deleteContinuation,
  registerSnapshot,
  type SnapshotFacts,
  type SnapshotRecord,
} from "../../ledger/snapshots.ts";
import type { CaptureScenario, ReachStep } from "../../lifecycle-steps.ts";
import type { Vm } from "../../machine/driver.ts";
import { newSnapshotPlace, removeSnapshot } from "../../machine/snapshot-files.ts";
import type { LifecycleSamples } from "../lifecycle-samples.ts";

export interface CaptureDependencies {
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly samples: LifecycleSamples;
  readonly reach: ReachStep;
  /** Folder of all snapshots, in the state folder. */
  readonly snapshotsFolder: string;
}

/** Writes down a continuation before any file of it exists. Call it in the write that says what it is for. */
export function registerContinuation(
  { ledger, snapshotsFolder }: CaptureDependencies,
  sandboxId: string,
  reason: string,
): SnapshotRecord {
  const place = newSnapshotPlace(snapshotsFolder);
  return registerSnapshot(ledger, { ...place, kind: "continuation", logicalId: sandboxId, reason });
}

/** The machine of a running or paused sandbox. */
export interface CaptureSource {
  readonly vm: Vm;
  /** The boot id of its guest. */
  readonly bootId: string;
  readonly sandboxId: string;
}

/**
 * Pauses a sandbox's machine and saves it into the snapshot's folder, whole and synced. The machine stays paused.
 * @throws what the engine throws; the folder does not exist then
 */
export function captureSession(
  { clock, samples, reach }: CaptureDependencies,
  { vm, bootId, sandboxId }: CaptureSource,
  { folder }: SnapshotRecord,
  options: { readonly isLast: boolean; readonly scenario: CaptureScenario; readonly memory?: boolean },
): Promise<SnapshotFacts> {
  const { scenario, ...content } = options;
  reach(`${scenario}.registered`);
  return saveMachine(
    { vm, guest: { bootId } },
    {
      folder,
      ...content,
      clock,
      reach: (step) => reach(`${scenario}.${step}`),
      recordSample: (durationMs) => samples.record("snapshot_save", scenario, durationMs, sandboxId),
    },
  );
}

/** Removes a continuation that nothing is restored from any more: the ledger first, then its files. */
export async function discardContinuation(ledger: Ledger, snapshot: SnapshotRecord): Promise<void> {
  deleteContinuation(ledger, snapshot.id);
  await removeStruckOff(ledger, snapshot);
}

/** Removes the files of a snapshot whose deletion the ledger has, once a power loss cannot undo that deletion. */
export async function removeStruckOff(ledger: Ledger, { folder }: SnapshotRecord): Promise<void> {
  await ledger.sync();
  await removeSnapshot(folder);
}
