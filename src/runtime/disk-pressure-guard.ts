/**
 * The seed's RuntimeDiskPressureGuard: refuses new work while the disk that holds the state has less free space than
 * its floor, so that snapshots and disk layers never drive the host below it. Running work goes on.
 */
import { statfsSync } from "node:fs";
import { DomainError } from "../errors.ts";

export interface DiskSpace {
  readonly freeBytes: number;
  readonly totalBytes: number;
}

/** Answers how much space the disk under `folder` has. Tests hand in their own. */
export type DiskPressureProbe = (folder: string) => Promise<DiskSpace>;

/** Synchronous, as the ledger on the same disk is: one quick call, where a thread of the pool would take milliseconds to wake. */
export const hostDiskPressureProbe: DiskPressureProbe = async (folder) => {
  const stats = statfsSync(folder);
  return { freeBytes: stats.bavail * stats.bsize, totalBytes: stats.blocks * stats.bsize };
};

const tenGiB = 10 * 2 ** 30;

/** Pure: the floor in bytes for a disk of that size (design: 10 GiB or 10 % of the disk, whichever is less). */
export function defaultDiskFloorBytes(totalBytes: number): number {
  return Math.min(tenGiB, totalBytes / 10);
}

export class DiskPressureGuard {
  readonly #folder: string;
  readonly #floorBytes: number | undefined;
  readonly #probe: DiskPressureProbe;

  constructor(folder: string, floorMiB: number | undefined, probe: DiskPressureProbe = hostDiskPressureProbe) {
    this.#folder = folder;
    this.#floorBytes = floorMiB === undefined ? undefined : floorMiB * 2 ** 20;
    this.#probe = probe;
  }

  /**
   * @param floors how many times the floor must be free: work that can wait keeps further away from it
   * @throws DomainError `disk_pressure` with the figures, while free space is under that
   */
  async admit(work: string, floors = 1): Promise<void> {
    const { freeBytes, totalBytes } = await this.#probe(this.#folder);
    const floorBytes = floors * (this.#floorBytes ?? defaultDiskFloorBytes(totalBytes));
    if (freeBytes >= floorBytes) return;
    throw new DomainError(
      "disk_pressure",
      `not enough free disk to ${work}: ${gib(freeBytes)} free at ${this.#folder}, the floor is ${gib(floorBytes)}. ` +
        "Free some space, or lower --disk-floor-mib.",
      { freeBytes, floorBytes, folder: this.#folder },
    );
  }
}

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
