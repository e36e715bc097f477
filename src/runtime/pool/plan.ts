/**
 * The plan of the warm pool: how many machines it keeps for which templates, which have to go and which is made next.
 */
import type { Ledger } from "../../ledger/open.ts";
import { findCurrentBuild, findTemplate, type ResolvedTemplate } from "../../ledger/templates.ts";
import type { WarmEntryKey } from "../../ledger/warm-entries.ts";
import type { EngineInfo } from "../../machine/driver.ts";
import { baseAlias } from "../../template/base/template.ts";
import type { MachineShape } from "../../types.ts";

export interface WarmPoolSettings {
  /** Machines kept for the base template, whatever the demand. */
  readonly min: number;
  /** Most machines kept for each template; 0: there is no pool. */
  readonly max: number;
}

/** The warm machines that the pool keeps for one template. */
export interface PoolTarget {
  readonly key: WarmEntryKey;
  readonly snapshotId: string;
  readonly snapshotFolder: string;
  readonly shape: MachineShape;
  readonly size: number;
  /** Whether a machine may boot when its memory cannot be restored: see `RestoreOrder`. */
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
  /** The target that lacks most machines: one of them is made next. */
  readonly refill: PoolTarget | undefined;
}

/**
 * The targets for `base`, and for the templates that were asked for lately or are in the pool. They are read from the
 * ledger ten times a second, so their number must not grow with the number of templates.
 * @param pool recent creates by template id, and the templates of the pool's members
 */
export function poolTargets(
  ledger: Ledger,
  engine: EngineInfo,
  settings: WarmPoolSettings,
  pool: { readonly demand: ReadonlyMap<string, number>; readonly members: readonly string[] },
): PoolTarget[] {
  const { demand, members } = pool;
  const base = findTemplate(ledger, baseAlias)?.id;
  const ids = new Set([...(base === undefined ? [] : [base]), ...demand.keys(), ...members]);
  return [...ids].flatMap((id) => {
    const resolved = findCurrentBuild(ledger, id);
    if (resolved?.snapshot.state !== "ready") return [];
    const { snapshot, template } = resolved;
    const isBase = id === base;
    const min = isBase ? settings.min : 0;
    const size = targetSize({ min, max: settings.max, demand: demand.get(id) ?? 0 });
    return [
      {
        key: warmKeyOf(engine, resolved),
        snapshotId: snapshot.id,
        snapshotFolder: snapshot.folder,
        shape: template.shape,
        size,
        mayBoot: isBase,
      },
    ];
  });
}

/** The size of a pool that follows recent demand between its bounds. Pure. */
export function targetSize({ min, max, demand }: { min: number; max: number; demand: number }): number {
  return Math.min(max, Math.max(min, demand));
}

/** The key of the warm machines that fit a create of this build, on this engine. */
export function warmKeyOf(engine: EngineInfo, { template, buildId }: ResolvedTemplate): WarmEntryKey {
  const { vcpuCount, memoryMiB, diskMiB } = template.shape;
  const runtimeProfile = `${engine.engine} ${engine.version} ${engine.acceleration} ${vcpuCount}/${memoryMiB}/${diskMiB}`;
  return { templateId: template.id, buildId, runtimeProfile };
}

/**
 * Compares the pool with its targets. Pure.
 * @param members oldest first
 * @param maxAgeMs older machines are replaced, because their guests' caches and connections go out of date
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

function nameOf({ templateId, buildId, runtimeProfile }: WarmEntryKey): string {
  return `${templateId} ${buildId} ${runtimeProfile}`;
}
