/** What the warm pool is to hold, as the ledger has it: of which templates, of which build of each, and how many. */
import type { Ledger } from "../../ledger/open.ts";
import { findCurrentBuild, findTemplate, type ResolvedTemplate } from "../../ledger/templates.ts";
import type { WarmEntryKey } from "../../ledger/warm-entries.ts";
import type { EngineInfo } from "../../machine/driver.ts";
import { baseAlias } from "../../template/build-machine.ts";
import { type PoolTarget, targetSize } from "./plan.ts";

export interface WarmPoolSettings {
  /** Kept for the base template, whatever the demand. */
  readonly min: number;
  /** Kept at most for each template; 0: there is no pool. */
  readonly max: number;
}

/**
 * Of `base`, and of what was asked for lately or is in the pool: looked at ten times a second, however many there are.
 * @param pool creates of late by template id, and the templates of the pool's members
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
    const size = targetSize({ min: isBase ? settings.min : 0, max: settings.max, demand: demand.get(id) ?? 0 });
    const key = warmKeyOf(engine, resolved);
    const { id: snapshotId, folder: snapshotFolder } = snapshot;
    return [{ key, snapshotId, snapshotFolder, shape: template.shape, size, mayBoot: isBase }];
  });
}

/** Which warm machines fit a create of this build, on this engine. */
export function warmKeyOf(engine: EngineInfo, { template, buildId }: ResolvedTemplate): WarmEntryKey {
  const { vcpuCount, memoryMiB, diskMiB } = template.shape;
  const runtimeProfile = `${engine.engine} ${engine.version} ${engine.acceleration} ${vcpuCount}/${memoryMiB}/${diskMiB}`;
  return { templateId: template.id, buildId, runtimeProfile };
}
