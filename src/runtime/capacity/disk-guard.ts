/**
 * The disk guard: refuses new work while the disk that holds the state has less free space than its floor, so that
 * snapshots and disk layers never drive the host below it. Running work goes on.
 */
import { statfsSync } from "node:fs";
import { DomainError } from "../../errors.ts";

export interface DiskSpace {
  readonly freeBytes: number;
  readonly totalBytes: number;
}

/** Measures the space of the disk under `folder`. Tests pass their own. */
export type DiskPressureProbe = (folder: string) => Promise<DiskSpace>;

/** Synchronous, because it is one quick call, and a thread of the pool would take milliseconds to wake. */
const hostDiskPressureProbe: DiskPressureProbe = async (folder) => {
  const stats = statfsSync(folder);
  return { freeBytes: stats.bavail * stats.bsize, totalBytes: stats.blocks * stats.bsize };
};

const tenGiB = 10 * 2 ** 30;

/** The floor in bytes for a disk of that size: 10 GiB or 10 % of the disk, whichever is less. Pure. */
function defaultDiskFloorBytes(totalBytes: number): number {
  return Math.min(tenGiB, totalBytes / 10);
}

/** Kinds of work, each with a floor of its own. `write`: what guests that run write to their disks. */
export type DiskWork = "restore" | "save" | "refill" | "write";

/** The configured floors in MiB. */
export interface DiskFloors {
  /** Default: {@link defaultDiskFloorBytes}. */
  readonly restoreMiB?: number | undefined;
  /** Default: the floor for restores. */
  readonly saveMiB?: number | undefined;
  /** Default: twice the floor for restores, because a refill can wait. */
  readonly refillMiB?: number | undefined;
  /** Default: a tenth of the floor for restores, because guests that run go on for as long as they can. */
  readonly writeMiB?: number | undefined;
}

const settings = {
  restore: "--disk-floor-mib",
  save: "--save-disk-floor-mib",
  refill: "--refill-disk-floor-mib",
  write: "--write-disk-floor-mib",
} as const;
/** Defaults, as shares of the floor for restores. */
const shares = { restore: 1, save: 1, refill: 2, write: 0.1 } as const;

/** Frees disk space until there is enough, or until nothing is left that may be removed. */
export type Collect = (isEnough: () => Promise<boolean>) => Promise<void>;

export class DiskPressureGuard {
  readonly #folder: string;
  readonly #floors: DiskFloors;
  readonly #probe: DiskPressureProbe;
  #collect: Collect | undefined;

  constructor(folder: string, floors: DiskFloors, probe: DiskPressureProbe = hostDiskPressureProbe) {
    this.#folder = folder;
    this.#floors = floors;
    this.#probe = probe;
  }

  /** Sets the collection that is tried before work is refused. */
  collectWith(collect: Collect): void {
    this.#collect = collect;
  }

  /**
   * Lets new work begin, if there is enough free disk for it.
   * @param what the work, for the error: `create a sandbox`
   * @param neededBytes that the work is known to write, on top of the floor
   * @throws DomainError `disk_pressure` with the figures, while the free space is below the floor of such work
   */
  async admit(what: string, work: DiskWork = "restore", neededBytes = 0): Promise<void> {
    await this.makeRoom(work, neededBytes);
    const { freeBytes, floorBytes } = await this.look(work, neededBytes);
    if (freeBytes >= floorBytes) return;
    throw new DomainError(
      "disk_pressure",
      `not enough free disk to ${what}: ${gib(freeBytes)} free at ${this.#folder}, the floor is ${gib(floorBytes - neededBytes)}` +
        `${neededBytes > 0 ? `, and the work takes up to ${gib(neededBytes)}` : ""}. ` +
        `Free some space, or lower ${settings[work]}.`,
      { freeBytes, floorBytes, folder: this.#folder },
    );
  }

  /** The free space, and the floor of such work. */
  async look(work: DiskWork, neededBytes = 0): Promise<{ readonly freeBytes: number; readonly floorBytes: number }> {
    const { freeBytes, totalBytes } = await this.#probe(this.#folder);
    return { freeBytes, floorBytes: this.#floorBytes(work, totalBytes) + neededBytes };
  }

  /** Removes what nothing needs, if less than the floor of such work is free. */
  async makeRoom(work: DiskWork, neededBytes = 0): Promise<void> {
    const isEnough = async () => {
      const { freeBytes, floorBytes } = await this.look(work, neededBytes);
      return freeBytes >= floorBytes;
    };
    if (!(await isEnough())) await this.#collect?.(isEnough);
  }

  #floorBytes(work: DiskWork, totalBytes: number): number {
    const { restoreMiB, saveMiB, refillMiB, writeMiB } = this.#floors;
    const restoreBytes = restoreMiB === undefined ? defaultDiskFloorBytes(totalBytes) : restoreMiB * 2 ** 20;
    const set = { restore: restoreMiB, save: saveMiB, refill: refillMiB, write: writeMiB }[work];
    return set === undefined ? restoreBytes * shares[work] : set * 2 ** 20;
  }
}

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
