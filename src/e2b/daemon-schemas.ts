/** The schemas of what the daemon tells of itself, in the manner of E2B's answers. */
import { z } from "zod";

const text = z.string();

/** The engine that the daemon runs. */
const engine = {
  engine: text,
  engineVersion: text,
  acceleration: text,
  chosenBecause: text.optional().describe("why the daemon runs this engine"),
};

/** Not E2B's: the state of the daemon, for a client of `/health` that accepts JSON. */
export const Health = z
  .object({
    ...engine,
    walls: z
      .array(z.object({ name: text, stands: z.boolean(), detail: text }))
      .describe("what stands between an engine that its guest has taken over and this machine"),
    waitingForDisk: z.int().describe("sandboxes that stand still until this machine's disk has room"),
  })
  .meta({ id: "Health" });
export type Health = z.infer<typeof Health>;

/** The share of a budget that is taken. */
const BudgetUse = z.object({ active: z.int(), warm: z.int(), limit: z.int() });
/** Not E2B's: the machine's capacity, and its use. */
export const Capacity = z
  .object({
    ...engine,
    sandboxes: BudgetUse,
    cpuCount: BudgetUse,
    memoryMB: BudgetUse,
    diskSizeMB: BudgetUse,
    warmPool: z.object({ ready: z.int(), warming: z.int(), leaving: z.int() }),
    pausedInMemory: z.int().describe("paused sandboxes that still hold capacity, until the host can save them"),
    waitingForDisk: z.int().describe("running sandboxes that stand still until this machine's disk has room"),
    waiting: z.int().describe("creates that wait for capacity"),
  })
  .meta({ id: "Capacity" });
export type Capacity = z.infer<typeof Capacity>;

/** Not E2B's: the latency samples of this daemon, by span. */
export const Benchmarks = z
  .object({
    ...engine,
    benchmarks: z.array(
      z.object({
        span: text,
        scenario: text,
        engine: text,
        acceleration: text,
        n: z.int(),
        p50Ms: z.number(),
        p90Ms: z.number(),
        p95Ms: z.number(),
        p99Ms: z.number(),
      }),
    ),
  })
  .meta({ id: "Benchmarks" });
export type Benchmarks = z.infer<typeof Benchmarks>;

/** Not E2B's: the things that the daemon set aside. */
export const QuarantineList = z
  .object({
    entries: z.array(
      z.object({
        id: text,
        kind: z.enum(["file", "folder", "machine", "snapshot"]),
        name: text.describe("as it was found; for a snapshot, its owner"),
        reason: text,
        at: text,
      }),
    ),
  })
  .meta({ id: "QuarantineList" });
export type QuarantineList = z.infer<typeof QuarantineList>;
