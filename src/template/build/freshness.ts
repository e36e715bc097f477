/**
 * Which templates are stale: made from a parent that has a newer build since, older than they may be, or damaged. They are built
 * again from what is kept with the build, beside the old one, which serves until the new one is published.
 */
import type { SourcedBuild } from "../../ledger/template-builds.ts";

export type Freshness =
  | { readonly state: "fresh" }
  | { readonly state: "stale"; readonly why: "damaged" | "parent_changed" | "too_old" };

/**
 * Pure.
 * @param currentParentBuildId the build that the parent's name stands for now; undefined when there is no such parent any
 *   more: then there is nothing to build it from, and it stays as it is
 * @param maxAgeMs undefined: no build is ever too old
 */
export function decideFreshness(
  build: Pick<SourcedBuild, "damaged" | "parentBuildId" | "createdAtMs">,
  currentParentBuildId: string | undefined,
  nowMs: number,
  maxAgeMs: number | undefined,
): Freshness {
  if (currentParentBuildId === undefined) return { state: "fresh" };
  if (build.damaged) return { state: "stale", why: "damaged" };
  if (currentParentBuildId !== build.parentBuildId) return { state: "stale", why: "parent_changed" };
  if (maxAgeMs !== undefined && nowMs - build.createdAtMs > maxAgeMs) return { state: "stale", why: "too_old" };
  return { state: "fresh" };
}
