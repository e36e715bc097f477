/**
 * Saving a paused machine: its state and a clone of its disk in one pause window, written beside the snapshot's final
 * place and moved there when whole.
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { EngineInfo, SnapshotManifest } from "../driver.ts";
import { describeFile, publishSnapshot, stagingOf } from "../snapshot-files.ts";
import type { HelperClient } from "./helper-client.ts";
import { savedSchema } from "./helper-messages.ts";
import { diskName, machineName, stateName, type VzMachine, writeMachine } from "./machine.ts";

/** Saving takes seconds per GiB of used memory, and waits until no other machine of the host saves or restores. */
const saveDeadlineMs = 300_000;

export interface SaveInput {
  /** The snapshot's folder, which must not exist. */
  readonly folder: string;
  readonly bootId: string;
  readonly info: EngineInfo;
  readonly machine: VzMachine;
  /** False: the disk only. */
  readonly memory: boolean;
  readonly client: HelperClient;
}

/** On failure nothing is left, and the machine is as it was. */
export async function saveSnapshot(input: SaveInput): Promise<SnapshotManifest> {
  const { folder, machine, client } = input;
  const staging = stagingOf(folder);
  await rm(staging, { recursive: true, force: true });
  await mkdir(staging, { recursive: true, mode: 0o700 });
  try {
    const order = {
      ...(input.memory ? { stateFile: join(staging, stateName) } : {}),
      diskClone: join(staging, diskName),
    };
    const { dataBlocks } = await client.request({ op: "save", ...order }, savedSchema, saveDeadlineMs);
    const disk = await describeFile(staging, diskName, { dataBlocks });
    const files = input.memory ? { ...(await describeMachine(staging, machine)), disk } : { disk };
    const manifest = { ...describeSnapshot(input), files };
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

function describeSnapshot({ info, machine, bootId }: SaveInput): Omit<SnapshotManifest, "files"> {
  const { vcpuCount, memoryMiB, diskMiB, kernel, initramfs } = machine;
  return {
    formatVersion: 1,
    engine: "vz",
    engineVersion: info.version,
    acceleration: info.acceleration,
    cpuModel: "host",
    shape: { vcpuCount, memoryMiB, diskMiB },
    bootId,
    createdAtMs: Date.now(),
    dependsOn: [kernel, initramfs],
    lowerLayers: [],
    machine,
  };
}
