/** What is in use and what is left: one answer for clients and for metrics. */
import { type CapacityBudgets, usage } from "../ledger/capacity.ts";
import type { Ledger } from "../ledger/open.ts";
import type { Admission } from "./admission.ts";
import type { CapacityView } from "./runtime.ts";
import type { WarmPool } from "./warm-pool.ts";

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
    waiting: admission.queueLength,
  };
}
