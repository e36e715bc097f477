/** What the daemon and the process that makes a disk tell each other: one order, then a line of JSON for each event. */
import { z } from "zod";

/** As `DiskOrder`, with the paths of our own files instead of what is in them. */
export const orderSchema = z.object({
  layers: z.array(z.object({ path: z.string(), sizeBytes: z.number(), diffId: z.string() })),
  target: z.string(),
  envs: z.record(z.string(), z.string()),
  programs: z.object({ bash: z.string(), busybox: z.string(), applets: z.array(z.string()) }).optional(),
  limits: z.object({ maxEntries: z.number(), maxDiskMiB: z.number() }),
  minDiskMiB: z.number(),
  minFreeMiB: z.number(),
});
export type DiskOrderMessage = z.infer<typeof orderSchema>;

export const eventSchema = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("progress"), line: z.string() }),
  /** A good deal more has been written. */
  z.object({ kind: z.literal("wrote") }),
  z.object({
    kind: z.literal("made"),
    diskMiB: z.number(),
    usedMiB: z.number(),
    files: z.number(),
    filled: z.array(z.string()),
  }),
  z.object({
    kind: z.literal("failed"),
    code: z.enum(["failed_precondition", "unsupported", "disk_pressure"]),
    message: z.string(),
  }),
]);
export type DiskEvent = z.infer<typeof eventSchema>;
