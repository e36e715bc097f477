/**
 * The description of a VM: everything that must be the same at start and at every restore for a saved state to fit. It
 * goes into a snapshot's manifest, and into `machine.json` of a VM's folder so that a later daemon can adopt the VM.
 */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { DomainError, messageOf } from "../../errors.ts";
import type { SnapshotFile, SnapshotManifest } from "../driver.ts";
import type { Images } from "../images.ts";
import { identitySchema, optionalDeviceSchema, type StartOrder } from "./helper-messages.ts";

/** The guest's disk in a VM's folder and in a snapshot: a raw image. */
export const diskName = "disk.img";
export const stateName = "machine.vzsave";
const consoleName = "console.log";
const fileName = "machine.json";

const schema = z.object({
  /** Raised whenever the device set changes, because older snapshots do not fit then. */
  deviceSet: z.literal(1),
  vcpuCount: z.number().int().positive(),
  memoryMiB: z.number().int().positive(),
  diskMiB: z.number().int().positive(),
  kernel: z.string().startsWith("/"),
  initramfs: z.string().startsWith("/"),
  commandLine: z.string(),
  /** Whether it has a serial port, whose output is kept in its folder. */
  hasConsole: z.boolean().optional(),
  withoutDevices: z.array(optionalDeviceSchema).optional(),
  ...identitySchema.shape,
  /** Saved states are encrypted for one host and user, and hold the layout of one build of the framework. */
  hostId: z.string(),
  osBuild: z.string(),
  helperVersion: z.string(),
});

/** The description of one VM, as plain JSON. */
export type VzMachine = z.infer<typeof schema>;

/** @throws DomainError `failed_precondition` when this version cannot rebuild a machine */
export function parseMachine(value: unknown): VzMachine {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const reason = z.prettifyError(parsed.error);
  throw new DomainError("failed_precondition", `the snapshot describes a machine this version cannot build: ${reason}`);
}

/** What a machine stands on outside of its folder. */
export const imagesOf = ({ kernel, initramfs }: VzMachine) => [kernel, initramfs] as const;

/** The machine as a manifest has it: with its images by their digests. */
export function withDigests(machine: VzMachine, [kernel, initramfs]: readonly [SnapshotFile, SnapshotFile]) {
  return { ...machine, kernel: kernel.sha256, initramfs: initramfs.sha256 };
}

/**
 * The machine of a manifest, with its images where they are on this host.
 * @throws DomainError `failed_precondition` when this version cannot rebuild it, or an image is nowhere
 */
export async function resolveMachine(
  { machine, parents }: Pick<SnapshotManifest, "machine" | "parents">,
  images: Pick<Images, "find">,
): Promise<VzMachine> {
  const resolveImage = async (name: unknown) => {
    const image = parents.find((parent) => "sha256" in parent && parent.sha256 === name);
    return image && "sha256" in image ? images.find(image) : name;
  };
  const [kernel, initramfs] = await Promise.all([machine.kernel, machine.initramfs].map(resolveImage));
  return parseMachine({ ...machine, kernel, initramfs });
}

/** The helper's order for this machine, in `folder`, with a disk cloned from `diskSource`. */
export function startOrderOf(machine: VzMachine, folder: string, diskSource: string) {
  const { vcpuCount, memoryMiB, diskMiB, machineIdentifier, macAddress, kernel, initramfs, commandLine } = machine;
  const shape = { vcpuCount, memoryMiB, diskMiB, disk: join(folder, diskName), machineIdentifier, macAddress };
  const devices = devicesIn(folder, machine);
  return { machine: shape, diskSource, kernel, initramfs, commandLine, ...devices } satisfies StartOrder;
}

/** The part of an order that says which devices the machine has, besides those that all have. */
export function devicesIn(
  folder: string,
  { hasConsole, withoutDevices }: Pick<VzMachine, "hasConsole" | "withoutDevices">,
): Pick<StartOrder, "serialLog" | "withoutDevices"> {
  return {
    ...(hasConsole ? { serialLog: join(folder, consoleName) } : {}),
    ...(withoutDevices?.length ? { withoutDevices } : {}),
  };
}

export async function writeMachine(folder: string, machine: VzMachine): Promise<void> {
  await writeFile(join(folder, fileName), JSON.stringify(machine), { mode: 0o600 });
}

/** @throws DomainError `machine_failed` when the file in the VM's folder is missing or damaged */
export async function readMachine(folder: string): Promise<VzMachine> {
  const path = join(folder, fileName);
  try {
    return schema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch (error) {
    throw new DomainError("machine_failed", `${path} cannot be read: ${messageOf(error)}`, {}, { cause: error });
  }
}

/** The name of {@link writeMachine}'s file, which is also the device state's in a snapshot. */
export const machineName = fileName;
