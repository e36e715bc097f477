/**
 * The save of a machine that stands still. The checkpoint is written first, because gVisor gives what it still had of
 * the disk's files to the host then, and the disk after it: both are of one moment.
 */
import { chown, mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { explainDiskFull } from "../disk-full.ts";
import type { EngineInfo, SaveOptions, SnapshotFile, SnapshotManifest } from "../driver.ts";
import type { Images } from "../images.ts";
import { linkFile } from "../link-file.ts";
import { describeFile, publishSnapshot, stagingOf } from "../snapshot-files.ts";
import { agentFolder, checkpointName, imageFolder } from "./box.ts";
import { packedName, packLayer } from "./disk.ts";
import type { RunningMachine } from "./machine.ts";
import type { Orders } from "./orders.ts";
import { agentName, containerName, inBox } from "./spec.ts";
import { firstFileOwner } from "./users.ts";

/** The checkpoint's name in a snapshot. */
const memoryName = "memory.img";
/** The agent's program in a snapshot: the memory of its process is a part of this file. */
const agentFileName = "agent";

/** Seconds for each GiB that the guest's processes have. */
const saveDeadlineMs = 300_000;

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
    const checkpoint = await takeCheckpoint(paused, staging, memory);
    await paused.orders.give("sync", saveDeadlineMs);
    const [disk, baseDisk] = await Promise.all([
      saveDisk(paused, staging),
      paused.images.identify(paused.running.machine.baseDisk),
    ]);
    const files = checkpoint ? { memory: await checkpoint, devices: paused.running.agent, disk } : { disk };
    const manifest = { ...describeSnapshot(paused, bootId, baseDisk), files };
    await publishSnapshot(staging, folder, manifest);
    return manifest;
  } catch (error) {
    await rm(staging, { recursive: true, force: true });
    throw explainDiskFull(error, "save a machine", folder);
  }
}

/** @returns undefined without memory: the checkpoint has had its effect on the disk then, and may have failed */
async function takeCheckpoint(
  { folder, orders }: PausedMachine,
  staging: string,
  isKept: boolean,
): Promise<Promise<SnapshotFile> | undefined> {
  const written = join(imageFolder(folder), checkpointName);
  await rm(written, { force: true });
  const order = `checkpoint --image-path=${inBox.image} --leave-running ${containerName}`;
  try {
    await orders.give(order, saveDeadlineMs);
    if (!isKept) return undefined;
    await Promise.all([
      rename(written, join(staging, memoryName)),
      linkFile(join(agentFolder(folder), agentName), join(staging, agentFileName)),
    ]);
  } catch (error) {
    if (isKept) throw error;
    return undefined;
  } finally {
    await rm(written, { force: true });
  }
  // Whoever restores it in a box reads it as root of the box.
  await chown(join(staging, memoryName), firstFileOwner, firstFileOwner);
  return describeFile(staging, memoryName);
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
