/** What is in use and what is left: one answer for clients and for metrics. */
import { type CapacityBudgets, usage } from "../ledger/capacity.ts";
import type { Ledger } from "../ledger/open.ts";
import { listSandboxes } from "../ledger/sandboxes.ts";
import type { Metrics } from "../metrics.ts";
import type { Admission } from "./capacity/admission.ts";
import type { Quarantine } from "./machines/quarantine.ts";
import type { WarmPool } from "./pool/warm-pool.ts";
import type { CapacityView } from "./runtime.ts";

export interface CapacitySources {
  readonly ledger: Ledger;
  readonly budgets: CapacityBudgets;
  readonly warmPool: Pick<WarmPool, "depth">;
  readonly admission: Pick<Admission, "queueLength">;
}

export function viewCapacity({ ledger, budgets, warmPool, admission }: CapacitySources): CapacityView {
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
    waiting: admission.queueLength,
  };
}

/** What else the gauges tell of. */
export interface GaugeSources {
  readonly metrics: Metrics;
  readonly quarantine: Pick<Quarantine, "updateGauge">;
  /** How many sandboxes are in a state. */
  readonly count: (state: "running" | "paused") => number;
}

/** Brings the gauges up to date. */
export function updateGauges({ budgets, warmPool }: CapacityView, { metrics, quarantine, count }: GaugeSources): void {
  quarantine.updateGauge();
  for (const state of ["running", "paused"] as const) metrics.sandboxes.set({ state }, count(state));
  for (const [state, machines] of Object.entries(warmPool)) metrics.warmPoolDepth.set({ state }, machines);
  for (const [budget, use] of Object.entries(budgets)) {
    for (const [kind, amount] of Object.entries(use)) metrics.capacity.set({ budget, kind }, amount);
  }
}
