/**
 * The save of a machine that stands still. The checkpoint is written first, because gVisor gives what it still had of
 * the disk's files to the host then, and the disk after it: both are of one moment.
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { allSettledOrThrow } from "../../scope.ts";
import { explainDiskFull } from "../disk-full.ts";
import type { EngineInfo, SaveOptions, SnapshotFile, SnapshotManifest } from "../driver.ts";
import type { Images } from "../images.ts";
import { linkFile } from "../link-file.ts";
import { publishSnapshot, stagingOf } from "../snapshot-files.ts";
import { dropCheckpoint, keepCheckpoint, writeCheckpoint } from "./checkpoint.ts";
import { reopenImage, saveWrittenLayer, type WrittenDisk } from "./disk-save.ts";
import type { RunningMachine } from "./machine.ts";
import type { Orders } from "./orders.ts";

/** Long enough for a disk full of what the host has not written yet. */
const syncDeadlineMs = 300_000;

export interface PausedMachine extends WrittenDisk {
  readonly running: RunningMachine;
  readonly orders: Orders;
  readonly info: EngineInfo;
  readonly images: Pick<Images, "identify">;
}

/** Writes the snapshot beside its final place and moves it there when it is whole; on failure nothing is left. */
export async function writeSnapshot(
  paused: PausedMachine,
  folder: string,
  { bootId, isLast = false, memory = true }: SaveOptions,
): Promise<SnapshotManifest> {
  const staging = stagingOf(folder);
  await rm(staging, { recursive: true, force: true });
  try {
    await mkdir(staging, { recursive: true, mode: 0o700 });
    const written = await takeCheckpoint(paused, memory);
    const [checkpoint, disk, baseDisk] = await allSettledOrThrow([
      written && keepCheckpoint(paused, written, staging),
      paused.orders.give("sync", syncDeadlineMs).then(() => saveDisk(paused, staging, isLast)),
      paused.images.identify(paused.running.machine.baseDisk),
    ]);
    const description = describeSnapshot(paused, bootId, baseDisk);
    const manifest = checkpoint
      ? { ...description, files: { ...checkpoint.files, disk }, moreFiles: checkpoint.moreFiles }
      : { ...description, files: { disk } };
    await publishSnapshot(staging, folder, manifest);
    return manifest;
  } catch (error) {
    await rm(staging, { recursive: true, force: true });
    if (isLast) await reopenImage(paused);
    throw explainDiskFull(error, "save a machine", folder);
  }
}

/** @returns undefined without memory: the checkpoint has had its effect on the disk then, and may have failed */
async function takeCheckpoint(paused: PausedMachine, isKept: boolean): Promise<string[] | undefined> {
  try {
    const written = await writeCheckpoint(paused);
    if (isKept) return written;
  } catch (error) {
    if (isKept) throw error;
  }
  await dropCheckpoint(paused.folder);
  return undefined;
}

async function saveDisk(paused: PausedMachine, staging: string, isLast: boolean): Promise<SnapshotFile> {
  const { folder, running } = paused;
  const [disk] = await Promise.all([
    saveWrittenLayer(paused, staging, isLast),
    ...running.lowerLayers.map(({ name }) => linkFile(join(folder, name), join(staging, name))),
  ]);
  return disk;
}

function describeSnapshot(
  { running, info }: PausedMachine,
  bootId: string,
  baseDisk: SnapshotFile,
): Omit<SnapshotManifest, "files"> {
  const { machine, engineVersion, cpuClass, lowerLayers } = running;
  const { vcpuCount, memoryMiB, diskMiB } = machine;
  return {
    formatVersion: 2,
    engine: "gvisor",
    engineVersion,
    acceleration: info.acceleration,
    cpuModel: "host",
    cpuClass,
    shape: { vcpuCount, memoryMiB, diskMiB },
    bootId,
    createdAtMs: Date.now(),
    parents: [baseDisk],
    lowerLayers,
    machine: { ...machine, baseDisk: baseDisk.sha256 },
  };
}
