/**
 * The save of a paused machine: its state and a clone of its disk from one pause window, written beside the snapshot's
 * final place and moved there when whole.
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { EngineInfo, SaveOptions, SnapshotFile, SnapshotManifest } from "../driver.ts";
import { describeFile, publishSnapshot, stagingOf } from "../snapshot-files.ts";
import type { HelperClient } from "./helper-client.ts";
import { savedSchema } from "./helper-messages.ts";
import { diskName, imagesOf, machineName, stateName, type VzMachine, withDigests, writeMachine } from "./machine.ts";

/** A save takes seconds per GiB of used memory, and waits until no other machine of the host saves or restores. */
const saveDeadlineMs = 300_000;

export interface PausedMachine {
  readonly info: EngineInfo;
  readonly machine: VzMachine;
  readonly client: HelperClient;
  /** Names an image by its content. */
  readonly identify: (path: string) => Promise<SnapshotFile>;
}

/**
 * Saves a paused machine into `folder`, which must not exist. On failure nothing is left, and the machine is as it was.
 */
export async function writeSnapshot(
  paused: PausedMachine,
  folder: string,
  { bootId, memory = true }: SaveOptions,
): Promise<SnapshotManifest> {
  const { machine, client } = paused;
  const staging = stagingOf(folder);
  await rm(staging, { recursive: true, force: true });
  await mkdir(staging, { recursive: true, mode: 0o700 });
  try {
    const order = {
      ...(memory ? { stateFile: join(staging, stateName) } : {}),
      diskClone: join(staging, diskName),
    };
    const { dataBlocks } = await client.request({ op: "save", ...order }, savedSchema, saveDeadlineMs);
    const disk = await describeFile(staging, diskName, { dataBlocks });
    const files = memory ? { ...(await describeMachine(staging, machine)), disk } : { disk };
    const manifest = { ...(await describeSnapshot(paused, bootId)), files };
    await publishSnapshot(staging, folder, manifest);
    return manifest;
  } catch (error) {
    await rm(staging, { recursive: true, force: true });
    throw error;
  }
}

async function describeMachine(staging: string, machine: VzMachine) {
  await writeMachine(staging, machine);
  return { memory: await describeFile(staging, stateName), devices: await describeFile(staging, machineName) };
}

async function describeSnapshot(
  { info, machine, identify }: PausedMachine,
  bootId: string,
): Promise<Omit<SnapshotManifest, "files">> {
  const { vcpuCount, memoryMiB, diskMiB } = machine;
  const [kernel, initramfs] = imagesOf(machine);
  const parents = [await identify(kernel), await identify(initramfs)] as const;
  return {
    formatVersion: 2,
    engine: "vz",
    engineVersion: info.version,
    acceleration: info.acceleration,
    cpuModel: "host",
    // The framework does not say more, and the machine names its host.
    cpuClass: "host",
    shape: { vcpuCount, memoryMiB, diskMiB },
    bootId,
    createdAtMs: Date.now(),
    parents,
    lowerLayers: [],
    machine: withDigests(machine, parents),
  };
}
