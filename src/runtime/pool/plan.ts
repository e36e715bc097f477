/** How many warm machines there should be, which have to go and which is made next. Pure. */
import type { WarmEntryKey } from "../../ledger/warm-entries.ts";
import type { MachineShape } from "../../types.ts";

/** What the pool keeps for one template. */
export interface PoolTarget {
  readonly key: WarmEntryKey;
  readonly snapshotId: string;
  readonly snapshotFolder: string;
  readonly shape: MachineShape;
  readonly size: number;
  /** It boots when its memory cannot be restored: see `RestoreOrder`. */
  readonly mayBoot: boolean;
}

/** One warm machine, ready or being made. */
export interface PoolMember {
  readonly id: string;
  readonly key: WarmEntryKey;
  readonly createdAtMs: number;
}

export type DiscardReason = "stale" | "expired" | "surplus";

export interface PoolPlan {
  readonly discard: readonly { readonly id: string; readonly reason: DiscardReason }[];
  /** The one to make next, if any: of the template that lacks most. */
  readonly refill: PoolTarget | undefined;
}

/** A pool of at least `min` and at most `max`, and in between of as many as were asked for lately. */
export function targetSize({ min, max, demand }: { min: number; max: number; demand: number }): number {
  return Math.min(max, Math.max(min, demand));
}

/**
 * @param members oldest first
 * @param maxAgeMs older ones are replaced: what a guest keeps of the world while it waits does not get better with time
 */
export function planPool(
  targets: readonly PoolTarget[],
  members: readonly PoolMember[],
  nowMs: number,
  maxAgeMs: number,
): PoolPlan {
  const wanted = new Map(targets.map((target) => [nameOf(target.key), target]));
  const discard: { id: string; reason: DiscardReason }[] = [];
  const kept = new Map<string, PoolMember[]>();
  for (const member of members) {
    const name = nameOf(member.key);
    if (!wanted.has(name)) discard.push({ id: member.id, reason: "stale" });
    else if (nowMs - member.createdAtMs >= maxAgeMs) discard.push({ id: member.id, reason: "expired" });
    else kept.set(name, [...(kept.get(name) ?? []), member]);
  }
  let refill: PoolTarget | undefined;
  let mostLacking = 0;
  for (const [name, target] of wanted) {
    const have = kept.get(name) ?? [];
    const surplus = have.slice(0, Math.max(0, have.length - target.size));
    discard.push(...surplus.map(({ id }) => ({ id, reason: "surplus" as const })));
    const lacking = target.size - have.length;
    if (lacking > mostLacking) [refill, mostLacking] = [target, lacking];
  }
  return { discard, refill };
}

/** Whether one warm machine is as good as another. */
export function isSameKey(one: WarmEntryKey, other: WarmEntryKey): boolean {
  return nameOf(one) === nameOf(other);
}

/** One name for each key. */
function nameOf({ templateId, buildId, runtimeProfile }: WarmEntryKey): string {
  return `${templateId} ${buildId} ${runtimeProfile}`;
}
