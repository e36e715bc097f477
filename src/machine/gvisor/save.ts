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
import { describeFile, publishSnapshot, stagingOf } from "../snapshot-files.ts";
import { dropCheckpoint, keepCheckpoint, writeCheckpoint } from "./checkpoint.ts";
import { packedName, packLayer } from "./disk.ts";
import type { RunningMachine } from "./machine.ts";
import type { Orders } from "./orders.ts";

/** Long enough for a disk full of what the host has not written yet. */
const syncDeadlineMs = 300_000;

export interface PausedMachine {
  readonly folder: string;
  readonly running: RunningMachine;
  readonly orders: Orders;
  readonly info: EngineInfo;
  readonly images: Pick<Images, "identify">;
}

/** Writes the snapshot beside its final place and moves it there when it is whole; on failure nothing is left. */
export async function writeSnapshot(
  paused: PausedMachine,
  folder: string,
  { bootId, memory = true }: SaveOptions,
): Promise<SnapshotManifest> {
  const staging = stagingOf(folder);
  await rm(staging, { recursive: true, force: true });
  try {
    await mkdir(staging, { recursive: true, mode: 0o700 });
    const written = await takeCheckpoint(paused, memory);
    const [checkpoint, disk, baseDisk] = await allSettledOrThrow([
      written && keepCheckpoint(paused, written, staging),
      paused.orders.give("sync", syncDeadlineMs).then(() => saveDisk(paused, staging)),
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

async function saveDisk({ folder, running }: PausedMachine, staging: string): Promise<SnapshotFile> {
  await Promise.all([
    packLayer(folder, join(staging, packedName)),
    ...running.lowerLayers.map(({ name }) => linkFile(join(folder, name), join(staging, name))),
  ]);
  return describeFile(staging, packedName);
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
