/** The plan of admission: the answer to a create that does not fit now, and the machines to evict for it. Pure. */
import {
  type CapacityBudgets,
  type CapacityShortage,
  type CapacityUsage,
  findShortage,
  type PoolUsage,
} from "../../ledger/capacity.ts";
import type { MachineShape } from "../../types.ts";

export type AdmissionDecision =
  /**
   * The create waits for machines that leave, whatever the queue's bounds: warm ones that are evicted for it, and those
   * of sandboxes that are killed or paused.
   */
  | { readonly answer: "wait_for_leaving"; readonly shortage: CapacityShortage }
  /** The create waits for sandboxes to end. `position` counts from 1. */
  | { readonly answer: "queue"; readonly position: number; readonly shortage: CapacityShortage }
  | { readonly answer: "reject"; readonly reason: RejectionReason; readonly shortage: CapacityShortage };

export type RejectionReason = "oversized" | "queue_full" | "queue_off";

export interface QueueBounds {
  /** Most creates that may wait. */
  readonly limit: number;
  /** Longest wait of a create; 0: no create waits. */
  readonly timeoutMs: number;
}

export interface AdmissionQuestion {
  readonly shape: MachineShape;
  readonly usage: CapacityUsage;
  /** The part of the active usage whose machines are leaving. */
  readonly leaving: PoolUsage;
  readonly budgets: CapacityBudgets;
  /** The shapes of the creates that wait already, first come first. */
  readonly ahead: readonly MachineShape[];
  readonly bounds: QueueBounds;
}

/** Decides on a create that cannot be admitted now, because there is no room or because others wait already. */
export function decideAdmission({
  shape,
  usage,
  leaving,
  budgets,
  ahead,
  bounds,
}: AdmissionQuestion): AdmissionDecision {
  const active = ahead.reduce(plusOne, usage.active);
  const shortage = findShortage(usage, shape, budgets) ??
    findShortage({ ...usage, active }, shape, budgets) ?? {
      // The last reservation was just released: there is room, but it is not this create's turn.
      dimension: "sandboxes",
      requested: 1,
      available: 0,
      limit: budgets.sandboxes,
      oversized: false,
    };
  if (shortage.oversized) return { answer: "reject", reason: "oversized", shortage };
  if (fits(plusOne(combine(active, leaving, -1), shape), budgets)) return { answer: "wait_for_leaving", shortage };
  if (bounds.timeoutMs === 0) return { answer: "reject", reason: "queue_off", shortage };
  if (ahead.length >= bounds.limit) return { answer: "reject", reason: "queue_full", shortage };
  return { answer: "queue", position: ahead.length + 1, shortage };
}

/** A machine that could make room. */
export interface Evictable {
  readonly id: string;
  readonly shape: MachineShape;
}

export interface EvictionQuestion {
  readonly usage: CapacityUsage;
  readonly budgets: CapacityBudgets;
  /** The shapes of the creates that wait, first come first. */
  readonly waiting: readonly MachineShape[];
  /** Oldest first. */
  readonly evictable: readonly Evictable[];
  /** The shapes of machines that were evicted before and still hold capacity. */
  readonly leaving: readonly MachineShape[];
}

/**
 * The ids of the machines to evict, oldest first and no more than needed, so that the first waiting creates fit. No
 * machine is evicted when not even the first create would fit without all of them: then a sandbox has to end, and the
 * pool is of use meanwhile.
 */
export function planEvictions({ usage, budgets, waiting, evictable, leaving }: EvictionQuestion): string[] {
  let admitted = usage.active;
  for (const shape of waiting) {
    const next = plusOne(admitted, shape);
    if (!fits(next, budgets)) break;
    admitted = next;
  }
  if (admitted === usage.active) return [];
  let warm = leaving.reduce(minusOne, usage.warm);
  const evicted: string[] = [];
  for (const { id, shape } of evictable) {
    if (fits(combine(admitted, warm, 1), budgets)) break;
    evicted.push(id);
    warm = minusOne(warm, shape);
  }
  return evicted;
}

function fits(usage: PoolUsage, budgets: CapacityBudgets): boolean {
  return (["vcpuCount", "memoryMiB", "diskMiB", "sandboxes"] as const).every((it) => usage[it] <= budgets[it]);
}

const one = (shape: MachineShape): PoolUsage => ({ ...shape, sandboxes: 1 });
const plusOne = (usage: PoolUsage, shape: MachineShape) => combine(usage, one(shape), 1);
const minusOne = (usage: PoolUsage, shape: MachineShape) => combine(usage, one(shape), -1);

function combine(usage: PoolUsage, other: PoolUsage, sign: 1 | -1): PoolUsage {
  return {
    vcpuCount: usage.vcpuCount + sign * other.vcpuCount,
    memoryMiB: usage.memoryMiB + sign * other.memoryMiB,
    diskMiB: usage.diskMiB + sign * other.diskMiB,
    sandboxes: usage.sandboxes + sign * other.sandboxes,
  };
}
