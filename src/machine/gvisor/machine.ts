/**
 * The description of a gVisor machine: everything that must be the same at its start and at every restore for a
 * checkpoint to fit. It goes into a snapshot's manifest, and into `machine.json` of a machine's folder so that a later
 * daemon can adopt the machine.
 */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { DomainError, messageOf } from "../../errors.ts";
import type { SnapshotManifest } from "../driver.ts";
import type { Images } from "../images.ts";

const machineSchema = z.object({
  /** Raised whenever mounts, devices or users change, because older checkpoints do not fit then. */
  deviceSet: z.literal(1),
  platform: z.literal("systrap"),
  vcpuCount: z.number().int().positive(),
  memoryMiB: z.number().int().positive(),
  /** Size of the file system of each layer of the disk. */
  diskMiB: z.number().int().positive(),
  /** The raw image whose files are the lowest layer of the disk. */
  baseDisk: z.string().startsWith("/"),
  /** Whether its runsc can leave pages in the files of an earlier checkpoint (`scripts/setup/runsc/`). */
  sharesPages: z.boolean().default(false),
});
export type GvisorMachine = z.infer<typeof machineSchema>;

const savedSchema = machineSchema.extend({ baseDisk: z.string().regex(/^[0-9a-f]{64}$/) });
const fileSchema = z.object({ name: z.string(), sizeBytes: z.number(), sha256: z.string() });

const runningSchema = z.object({
  machine: machineSchema,
  cpuClass: z.string(),
  engineVersion: z.string(),
  /** The agent's program in the machine's folder: the memory of its process is a part of the file. */
  agent: fileSchema,
  /** Disk layers in the machine's folder below the writable one, top first. */
  lowerLayers: z.array(fileSchema),
  /** Files with pages of the memory that the machine was restored from, by their index. */
  pages: z.array(fileSchema).default([]),
});

/** A running machine as a later daemon must know it, beside its processes. */
export type RunningMachine = z.infer<typeof runningSchema>;

/**
 * The machine of a manifest, with its base disk where it is on this host.
 * @throws DomainError `failed_precondition` when this version cannot rebuild it, or its base disk is nowhere
 */
export async function resolveMachine(
  { machine, parents }: Pick<SnapshotManifest, "machine" | "parents">,
  images: Pick<Images, "find">,
): Promise<GvisorMachine> {
  const parsed = savedSchema.safeParse(machine);
  if (!parsed.success) throw unknownMachine(z.prettifyError(parsed.error));
  const image = parents.find((parent) => "sha256" in parent && parent.sha256 === parsed.data.baseDisk);
  if (!image || "path" in image) throw unknownMachine("its base disk is none of its parents");
  return { ...parsed.data, baseDisk: await images.find(image) };
}

function unknownMachine(reason: string): DomainError {
  const problem = `the snapshot describes a machine this version cannot build: ${reason}`;
  return new DomainError("failed_precondition", problem);
}

const fileName = "machine.json";

export async function writeRunningMachine(folder: string, running: RunningMachine): Promise<void> {
  await writeFile(join(folder, fileName), JSON.stringify(running), { mode: 0o600 });
}

/** @throws DomainError `machine_failed` when the file in the machine's folder is missing or damaged */
export async function readRunningMachine(folder: string): Promise<RunningMachine> {
  const path = join(folder, fileName);
  try {
    return runningSchema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch (error) {
    throw new DomainError("machine_failed", `${path} cannot be read: ${messageOf(error)}`, {}, { cause: error });
  }
}
