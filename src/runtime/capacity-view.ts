/** The view of the capacity, in use and left: one answer for clients and for metrics. */
import { usage } from "../ledger/capacity.ts";
import { listSandboxes } from "../ledger/sandboxes.ts";
import type { CapacityView } from "./contract.ts";
import type { RuntimeDependencies } from "./dependencies.ts";

type CapacitySources = Pick<RuntimeDependencies, "ledger" | "budgets" | "warmPool" | "admission"> & {
  /** Sandboxes that wait for room on the host's disk. */
  readonly waitingForDisk: number;
};

export function viewCapacity({ ledger, budgets, warmPool, admission, waitingForDisk }: CapacitySources): CapacityView {
  const { active, warm } = usage(ledger);
  const use = (budget: keyof CapacityView["budgets"]) => ({
    active: active[budget],
    warm: warm[budget],
    limit: budgets[budget],
  });
  return {
    budgets: {
      sandboxes: use("sandboxes"),
      vcpuCount: use("vcpuCount"),
      memoryMiB: use("memoryMiB"),
      diskMiB: use("diskMiB"),
    },
    warmPool: warmPool.depth(),
    pausedInMemory: listSandboxes(ledger, ["paused_in_memory"]).length,
    waitingForDisk,
    waiting: admission.queueLength,
  };
}

/** The gauges, and what they show besides the capacity. */
interface GaugeSources extends Pick<RuntimeDependencies, "metrics" | "quarantine"> {
  /** How many sandboxes are in a state. */
  readonly count: (state: "running" | "paused") => number;
}

/** Brings the gauges up to date. */
export function updateGauges(
  { budgets, warmPool, waitingForDisk }: CapacityView,
  { metrics, quarantine, count }: GaugeSources,
): void {
  quarantine.updateGauge();
  metrics.sandboxesWaitingForDisk.set(waitingForDisk);
  for (const state of ["running", "paused"] as const) metrics.sandboxes.set({ state }, count(state));
  for (const [state, machines] of Object.entries(warmPool)) metrics.warmPoolDepth.set({ state }, machines);
  for (const [budget, use] of Object.entries(budgets)) {
    for (const [kind, amount] of Object.entries(use)) metrics.capacity.set({ budget, kind }, amount);
  }
}
