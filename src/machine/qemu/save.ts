/**
 * Saving a paused VM. Memory, devices and disk belong to one pause window. Of a restored VM only what it changed of its
 * memory is written; the image below never changes and is linked. The VM may go on afterwards, and then its disk layer is
 * copied (reflinked where the file system can); that needs no overlay, for `stop` drained and flushed it.
 */
import { chmod, mkdir, rm, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { DomainError } from "../../errors.ts";
import { explainDiskFull } from "../disk-full.ts";
import type { SnapshotFile, SnapshotManifest } from "../driver.ts";
import { describeFile, publishSnapshot, stagingOf } from "../snapshot-files.ts";
import { copyLayer, diskName, linkFile } from "./disk.ts";
import type { RunningMachine } from "./machine.ts";
import { copySparse, writeMemoryImage } from "./memory.ts";
import { saveMemoryChanges } from "./memory-changes.ts";
import type { QmpClient } from "./qmp.ts";

const memoryName = "memory.img";
const changesName = "memory-changes.bin";
const devicesName = "devices.bin";
/** More than any device state takes. */
const devicesRoomBytes = 1 << 20;

export interface SaveInput {
  /** The snapshot's folder, which must not exist. */
  readonly folder: string;
  readonly bootId: string;
  /** The VM never runs again unless this fails: its disk layer is linked instead of copied. */
  readonly isLast: boolean;
  /** False: the disk alone, as after a power cut. */
  readonly withMemory: boolean;
  /** The VM's folder. */
  readonly source: string;
  readonly pid: number;
  readonly running: RunningMachine;
  readonly qmp: QmpClient;
}

/** Writes the snapshot beside its final place and moves it there when it is whole; on failure nothing is left. */
export async function saveSnapshot(input: SaveInput): Promise<SnapshotManifest> {
  const staging = stagingOf(input.folder);
  await rm(staging, { recursive: true, force: true });
  try {
    await mkdir(staging, { recursive: true, mode: 0o700 });
    // Devices first: that makes QEMU give up its images, which writes the last of the disk layer.
    await saveDevices(input, staging);
    const [machine, disk] = await Promise.all([
      input.withMemory ? saveMachine(input, staging) : rm(join(staging, devicesName)),
      saveDisk(input, staging),
    ]);
    const manifest = machine
      ? { ...describeSnapshot(input), files: { ...machine.files, disk }, ...machine.changes }
      : { ...describeSnapshot(input), files: { disk } };
    await publishSnapshot(staging, input.folder, manifest);
    return manifest;
  } catch (error) {
    await rm(staging, { recursive: true, force: true });
    throw explainDiskFull(error, "save a machine", input.folder);
  }
}

/** Whatever its name says, the command saves the device state of any machine: 13 KB in a millisecond. */
async function saveDevices({ qmp }: SaveInput, staging: string): Promise<void> {
  const filename = join(staging, devicesName);
  try {
    await qmp.execute("xen-save-devices-state", { filename, live: true });
  } catch (error) {
    // QEMU only says "An IO error has occurred".
    const { bavail, bsize } = await statfs(staging);
    if (bavail * bsize >= devicesRoomBytes) throw error;
    throw new DomainError(
      "disk_pressure",
      `no space is left on the disk of ${staging} to save a machine`,
      {},
      { cause: error },
    );
  }
  await chmod(filename, 0o600);
}

async function saveMachine(input: SaveInput, staging: string) {
  const [memory, devices] = await Promise.all([saveMemory(input, staging), describeFile(staging, devicesName)]);
  const { image, changes } = memory;
  return { files: { memory: image, devices }, changes: changes ? { memoryChanges: changes } : {} };
}

interface SavedMemory {
  readonly image: SnapshotFile;
  readonly changes?: SnapshotFile;
}

async function saveMemory({ source, pid, running }: SaveInput, staging: string): Promise<SavedMemory> {
  const { name, shared, sha256 } = running.memory;
  const [path, target] = [join(source, name), join(staging, memoryName)];
  if (!shared && sha256 !== undefined) {
    await linkFile(path, target);
    const changes = await saveMemoryChanges(pid, path, { folder: staging, name: changesName });
    const { size: sizeBytes } = await stat(target);
    return { image: { name: memoryName, sizeBytes, sha256 }, changes };
  }
  // A VM that was booted shares its file with us: complete since it was paused.
  if (shared) await copySparse(path, target, true);
  else await writeMemoryImage(pid, path, target);
  await chmod(target, 0o600);
  return { image: await describeFile(staging, memoryName) };
}

async function saveDisk({ source, running, isLast }: SaveInput, staging: string): Promise<SnapshotFile> {
  const [path, target] = [join(source, diskName), join(staging, diskName)];
  await Promise.all([
    isLast ? linkFile(path, target) : copyLayer(path, target),
    ...running.lowerLayers.map(({ name }) => linkFile(join(source, name), join(staging, name))),
  ]);
  return describeFile(staging, diskName);
}

function describeSnapshot({ bootId, running }: SaveInput): Omit<SnapshotManifest, "files" | "memoryChanges"> {
  const { machine, engineVersion, acceleration } = running;
  return {
    formatVersion: 1,
    engine: "qemu",
    engineVersion,
    acceleration,
    cpuModel: machine.cpuModel,
    shape: { vcpuCount: machine.vcpuCount, memoryMiB: machine.memoryMiB, diskMiB: machine.diskMiB },
    bootId,
    createdAtMs: Date.now(),
    dependsOn: [machine.baseDisk],
    lowerLayers: running.lowerLayers,
    machine,
  };
}
