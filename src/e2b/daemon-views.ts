/** What the daemon tells of itself, made field by field from the runtime's views. Pure. */
import type { BenchmarkSummary, CapacityView } from "../runtime/contract.ts";
import type { Acceleration, EngineName } from "../types.ts";
import type { Benchmarks, Capacity, Health } from "./daemon-schemas.ts";

/** The engine that the daemon runs, as the runtime knows it. */
interface RunningEngine {
  readonly engine: EngineName;
  readonly version: string;
  readonly acceleration: Acceleration;
  readonly chosenBecause?: string;
  readonly walls?: readonly { readonly name: string; readonly stands: boolean; readonly detail: string }[];
}

const toEngine = ({ engine, version, acceleration, chosenBecause }: RunningEngine) => ({
  engine,
  engineVersion: version,
  acceleration,
  ...(chosenBecause ? { chosenBecause } : {}),
});

export function toHealth(engine: RunningEngine, { waitingForDisk }: Pick<CapacityView, "waitingForDisk">): Health {
  return { ...toEngine(engine), walls: [...(engine.walls ?? [])], waitingForDisk };
}

export function toBenchmarks(engine: RunningEngine, benchmarks: readonly BenchmarkSummary[]): Benchmarks {
  return { ...toEngine(engine), benchmarks: [...benchmarks] };
}

export function toCapacity(
  engine: RunningEngine,
  { budgets, warmPool, pausedInMemory, waitingForDisk, waiting }: CapacityView,
): Capacity {
  return {
    ...toEngine(engine),
    sandboxes: budgets.sandboxes,
    cpuCount: budgets.vcpuCount,
    memoryMB: budgets.memoryMiB,
    diskSizeMB: budgets.diskMiB,
    warmPool,
    pausedInMemory,
    waitingForDisk,
    waiting,
  };
}
