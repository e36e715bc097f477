/**
 * The save of a paused VM. Memory, devices and disk belong to one pause window. Of a restored VM only the pages that it
 * changed are written; the image below never changes and is linked. If the VM may go on afterwards its disk layer is
 * copied (reflinked where the file system can). That needs no overlay, because `stop` drained and flushed the layer.
 */
import { constants, copyFile, mkdir, rm, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { DomainError } from "../../errors.ts";
import { explainDiskFull } from "../disk-full.ts";
import type { SaveOptions, SnapshotFile, SnapshotManifest } from "../driver.ts";
import type { Images } from "../images.ts";
import { linkFile } from "../link-file.ts";
import { describeWritten, publishSnapshot, stagingOf } from "../snapshot-files.ts";
import type { GuestCpus } from "./cpu.ts";
import { copyLayer, diskName } from "./disk.ts";
import type { RunningMachine } from "./machine.ts";
import { devicesName, memoryName, seal } from "./machine-files.ts";
import { copySparse, writeMemoryImage } from "./memory.ts";
import { saveMemoryChanges } from "./memory-changes.ts";
import type { QmpClient } from "./qmp.ts";

const changesName = "memory-changes.bin";
/** More than any device state takes. */
const devicesRoomBytes = 1 << 20;
const maxDevicesBytes = 16 << 20;

export interface PausedMachine {
  /** The VM's folder. */
  readonly folder: string;
  readonly pid: number;
  readonly running: RunningMachine;
  readonly qmp: QmpClient;
  readonly host: { readonly images: Pick<Images, "identify">; readonly cpus: Pick<GuestCpus, "earlierClass"> };
}

/**
 * Writes the snapshot beside its final place and moves it there when it is whole; on failure nothing is left.
 * @param folder the snapshot's, which must not exist
 * @param options.isLast the disk layer is then linked instead of copied
 * @param options.memory false: the disk alone, as after a power cut
 */
export async function writeSnapshot(
  paused: PausedMachine,
  folder: string,
  { bootId, isLast = false, memory = true }: SaveOptions,
): Promise<SnapshotManifest> {
  const staging = stagingOf(folder);
  await rm(staging, { recursive: true, force: true });
  try {
    await mkdir(staging, { recursive: true, mode: 0o700 });
    // Devices go first: saving them makes QEMU give up its images, which writes the last of the disk layer.
    await saveDevices(paused, staging);
    const [machine, disk, baseDisk] = await Promise.all([
      memory ? saveMachine(paused, staging) : rm(join(staging, devicesName)),
      saveDisk(paused, staging, isLast),
      paused.host.images.identify(paused.running.machine.baseDisk),
    ]);
    const description = describeSnapshot(paused, bootId, baseDisk);
    const manifest = machine
      ? { ...description, files: { ...machine.files, disk }, ...machine.changes }
      : { ...description, files: { disk } };
    await publishSnapshot(staging, folder, manifest);
    return manifest;
  } catch (error) {
    await rm(staging, { recursive: true, force: true });
    throw explainDiskFull(error, "save a machine", folder);
  }
}

/** In spite of its name the command saves the device state of any machine: 13 KB in a millisecond. */
async function saveDevices({ qmp, folder }: PausedMachine, staging: string): Promise<void> {
  // QEMU sees the machine's folder only. The file is there, so QEMU can have put nothing else in its place.
  const filename = join(folder, devicesName);
  try {
    await qmp.execute("xen-save-devices-state", { filename, live: true });
  } catch (error) {
    // QEMU only says "An IO error has occurred".
    const { bavail, bsize } = await statfs(staging);
    if (bavail * bsize >= devicesRoomBytes) throw error;
    const problem = `no space is left on the disk of ${staging} to save a machine`;
    throw new DomainError("disk_pressure", problem, {}, { cause: error });
  }
  if ((await stat(filename)).size > maxDevicesBytes) {
    throw new DomainError("machine_failed", "the machine's device state is larger than any device state can be");
  }
  await copyFile(filename, join(staging, devicesName), constants.COPYFILE_EXCL);
}

async function saveMachine(paused: PausedMachine, staging: string) {
  const [memory, devices] = await Promise.all([saveMemory(paused, staging), describeWritten(staging, devicesName)]);
  const { image, changes } = memory;
  return { files: { memory: image, devices }, changes: changes ? { memoryChanges: changes } : {} };
}

interface SavedMemory {
  readonly image: SnapshotFile;
  readonly changes?: SnapshotFile;
}

async function saveMemory({ folder, pid, running }: PausedMachine, staging: string): Promise<SavedMemory> {
  const { name, shared, sha256 } = running.memory;
  const [path, target] = [join(folder, name), join(staging, memoryName)];
  if (!shared && sha256 !== undefined) {
    await linkFile(path, target);
    const changes = await saveMemoryChanges(pid, path, { folder: staging, name: changesName });
    const { size: sizeBytes } = await stat(target);
    return { image: { name: memoryName, sizeBytes, sha256 }, changes };
  }
  // The file of a VM that was booted is shared, and complete since the VM was paused.
  if (shared) await copySparse(path, target, true);
  else await writeMemoryImage(pid, path, target);
  await seal(target);
  return { image: await describeWritten(staging, memoryName) };
}

async function saveDisk({ folder, running }: PausedMachine, staging: string, isLast: boolean): Promise<SnapshotFile> {
  const [path, target] = [join(folder, diskName), join(staging, diskName)];
  await Promise.all([
    isLast ? linkFile(path, target) : copyLayer(path, target),
    ...running.lowerLayers.map(({ name }) => linkFile(join(folder, name), join(staging, name))),
  ]);
  return describeWritten(staging, diskName);
}

function describeSnapshot(
  { running, host }: PausedMachine,
  bootId: string,
  baseDisk: SnapshotFile,
): Omit<SnapshotManifest, "files" | "memoryChanges"> {
  const { machine, engineVersion, acceleration, cpuClass = host.cpus.earlierClass } = running;
  return {
    formatVersion: 2,
    engine: "qemu",
    engineVersion,
    acceleration,
    cpuModel: machine.cpuModel,
    cpuClass,
    shape: { vcpuCount: machine.vcpuCount, memoryMiB: machine.memoryMiB, diskMiB: machine.diskMiB },
    bootId,
    createdAtMs: Date.now(),
    parents: [baseDisk],
    lowerLayers: running.lowerLayers,
    machine: { ...machine, baseDisk: baseDisk.sha256 },
  };
}
