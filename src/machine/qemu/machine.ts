/**
 * The description of a VM: everything that must be the same at boot and at every restore for the device state to fit.
 * It goes into a snapshot's manifest, and into `machine.json` of a VM's folder so that a later daemon can adopt the VM.
 */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { DomainError, messageOf } from "../../errors.ts";

const machineSchema = z.object({
  /** Raised whenever the device set changes, because older snapshots do not fit then. */
  deviceSet: z.literal(1),
  cpuModel: z.string(),
  vcpuCount: z.number().int().positive(),
  memoryMiB: z.number().int().positive(),
  /** Virtual size of the guest's disk. */
  diskMiB: z.number().int().positive(),
  /** Read-only raw image at the bottom of the disk. */
  baseDisk: z.string().startsWith("/"),
});

/** The device set of one VM, as plain JSON. */
export type QemuMachine = z.infer<typeof machineSchema>;

const runningSchema = z.object({
  machine: machineSchema,
  engineVersion: z.string(),
  acceleration: z.enum(["kvm", "tcg"]),
  /** Names in the VM's folder. */
  memory: z.object({
    name: z.string(),
    shared: z.boolean(),
    /** Digest of the image that is mapped; absent for one that is shared, because it changes. */
    sha256: z.string().optional(),
  }),
  /** Disk layers in the VM's folder below the writable one, top first. These layers never change. */
  lowerLayers: z.array(z.object({ name: z.string(), sizeBytes: z.number(), sha256: z.string() })),
});

/** A running VM as a later daemon must know it, beside its processes. */
export type RunningMachine = z.infer<typeof runningSchema>;

/** @throws DomainError `failed_precondition` when this version cannot rebuild a manifest's `machine` */
export function parseMachine(value: unknown): QemuMachine {
  const parsed = machineSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const reason = z.prettifyError(parsed.error);
  throw new DomainError("failed_precondition", `the snapshot describes a machine this version cannot build: ${reason}`);
}

const fileName = "machine.json";

export async function writeRunningMachine(folder: string, running: RunningMachine): Promise<void> {
  await writeFile(join(folder, fileName), JSON.stringify(running), { mode: 0o600 });
}

/** @throws DomainError `machine_failed` when the file in the VM's folder is missing or damaged */
export async function readRunningMachine(folder: string): Promise<RunningMachine> {
  try {
    return runningSchema.parse(JSON.parse(await readFile(join(folder, fileName), "utf8")));
  } catch (error) {
    const problem = `${folder}/${fileName} cannot be read: ${messageOf(error)}`;
    throw new DomainError("machine_failed", problem, {}, { cause: error });
  }
}
