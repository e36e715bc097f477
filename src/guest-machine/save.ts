/** The save of a machine: its agent is closed, it is paused, and a snapshot is made of it that the ledger can keep. */
import { createHash } from "node:crypto";
import type { Clock } from "../clock.ts";
import type { GuestAgent } from "../guest/agent.ts";
import type { SnapshotFacts } from "../ledger/snapshots.ts";
import type { SnapshotManifest, Vm } from "../machine/driver.ts";
import { removeSnapshot } from "../machine/snapshot-files.ts";

/** A machine with the boot id of its guest; an agent that is still connected is closed before the save. */
export interface SaveSource {
  readonly vm: Vm;
  readonly guest: Pick<GuestAgent, "bootId"> & Partial<Pick<GuestAgent, "close">>;
}

export interface SaveRequest {
  /** The folder of the snapshot, which must not exist. */
  readonly folder: string;
  /** As in `SaveOptions` of the driver. */
  readonly isLast?: boolean;
  readonly memory?: boolean;
  readonly clock: Clock;
  readonly signal?: AbortSignal;
  /** Called when the machine stands still, and when the folder is whole. */
  readonly reach?: (step: "stopped" | "saved") => void;
  /** Called with the time that the whole save took. */
  readonly recordSample?: (durationMs: number) => void;
}

/**
 * Saves a machine into a folder, whole and synced. The machine stands still afterwards.
 * @throws what the engine throws; the signal's reason. The folder does not exist then.
 */
export async function saveMachine({ vm, guest }: SaveSource, request: SaveRequest): Promise<SnapshotFacts> {
  const { folder, isLast = false, memory = true, clock, signal, reach, recordSample } = request;
  const startedMs = clock.monotonicMs();
  const { bootId } = guest;
  guest.close?.();
  try {
    signal?.throwIfAborted();
    await vm.pause();
    reach?.("stopped");
    const manifest = await vm.saveSnapshot(folder, { bootId, isLast, memory });
    reach?.("saved");
    recordSample?.(clock.monotonicMs() - startedMs);
    return factsOf(manifest);
  } catch (error) {
    // The save may have failed after the folder got its name, and a folder of that name would pass for a snapshot.
    await removeSnapshot(folder);
    throw error;
  }
}

/** The part of a snapshot's manifest that the ledger keeps. */
export function factsOf(manifest: SnapshotManifest): SnapshotFacts {
  const { engine, engineVersion, acceleration, cpuModel, files, moreFiles = [] } = manifest;
  return {
    engine,
    engineVersion,
    acceleration,
    cpuModel,
    memoryBytes: moreFiles.reduce((sum, { sizeBytes }) => sum + sizeBytes, files.memory?.sizeBytes ?? 0),
    devicesBytes: files.memory ? files.devices.sizeBytes : 0,
    diskBytes: files.disk.sizeBytes,
    manifestSha256: createHash("sha256").update(JSON.stringify(manifest)).digest("hex"),
  };
}
