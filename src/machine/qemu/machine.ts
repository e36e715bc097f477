/**
 * The description of a VM: everything that must be the same at boot and at every restore for the device state to fit.
 * It goes into a snapshot's manifest, and into `machine.json` of a VM's folder so that a later daemon can adopt the VM.
 */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { DomainError, messageOf } from "../../errors.ts";
import type { SnapshotManifest } from "../driver.ts";
import type { Images } from "../images.ts";

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

/** As manifests of format 2 have it: the base disk by its digest. */
const savedSchema = machineSchema.extend({
  baseDisk: z.union([machineSchema.shape.baseDisk, z.string().regex(/^[0-9a-f]{64}$/)]),
});

const runningSchema = z.object({
  machine: machineSchema,
  /** See `cpu.ts`. Earlier versions do not say. */
  cpuClass: z.string().optional(),
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

/**
 * The machine of a manifest, with its base disk where it is on this host.
 * @throws DomainError `failed_precondition` when this version cannot rebuild it, or its base disk is nowhere
 */
export async function resolveMachine(
  { machine, parents }: Pick<SnapshotManifest, "machine" | "parents">,
  images: Pick<Images, "find">,
): Promise<QemuMachine> {
  const parsed = savedSchema.safeParse(machine);
  if (!parsed.success) throw unknownMachine(z.prettifyError(parsed.error));
  const { baseDisk } = parsed.data;
  if (baseDisk.startsWith("/")) return parsed.data;
  const image = parents.find((parent) => "sha256" in parent && parent.sha256 === baseDisk);
  if (!image || "path" in image) throw unknownMachine("its base disk is none of its parents");
  return { ...parsed.data, baseDisk: await images.find(image) };
}

function unknownMachine(reason: string): DomainError {
  return new DomainError(
    "failed_precondition",
    `the snapshot describes a machine this version cannot build: ${reason}`,
  );
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
