/** The forms of a snapshot's manifest: format 2, and format 1 of earlier versions, which are read as the same. */
import { z } from "zod";
import { accelerations, engineNames } from "../types.ts";
import type { SnapshotManifest } from "./driver.ts";

const positive = z.number().int().positive();
const file = z.object({
  name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]*$/, "a plain file name"),
  sizeBytes: z.number().int().nonnegative(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});
const commonSchema = z.object({
  engine: z.enum(engineNames),
  engineVersion: z.string(),
  acceleration: z.enum(accelerations),
  cpuModel: z.string(),
  shape: z.object({ vcpuCount: positive, memoryMiB: positive, diskMiB: positive }),
  bootId: z.string(),
  createdAtMs: z.number().int().nonnegative(),
  files: z.union([z.strictObject({ memory: file, devices: file, disk: file }), z.strictObject({ disk: file })]),
  memoryChanges: file.optional(),
  moreFiles: z.array(file).optional(),
  lowerLayers: z.array(file),
  machine: z.record(z.string(), z.unknown()),
});
const manifestSchema = z.discriminatedUnion("formatVersion", [
  commonSchema.extend({ formatVersion: z.literal(1), dependsOn: z.array(z.string().startsWith("/")) }),
  commonSchema.extend({ formatVersion: z.literal(2), parents: z.array(file), cpuClass: z.string() }),
]);

/** A manifest, or what is wrong with it. */
export function parseManifest(json: unknown): { readonly manifest: SnapshotManifest } | { readonly problem: string } {
  const parsed = manifestSchema.safeParse(json);
  if (!parsed.success) return { problem: z.prettifyError(parsed.error) };
  const { memoryChanges, moreFiles, ...rest } = parsed.data;
  const manifest = rest.formatVersion === 1 ? withParents(rest) : rest;
  return {
    manifest: { ...manifest, ...(memoryChanges ? { memoryChanges } : {}), ...(moreFiles ? { moreFiles } : {}) },
  };
}

/** Format 1 names its parents by their paths. */
function withParents<T extends { readonly dependsOn: readonly string[] }>({ dependsOn, ...manifest }: T) {
  return { ...manifest, parents: dependsOn.map((path) => ({ path })) };
}
