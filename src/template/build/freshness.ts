/**
 * The freshness of templates. A template is stale when its parent has a newer build, when it is older than the
 * configured age, or when it is damaged. It is built again from its stored spec, and the old build serves until the new
 * one is published.
 */
import type { SourcedBuild } from "../../ledger/template-builds.ts";

export type Freshness =
  | { readonly state: "fresh" }
  | { readonly state: "stale"; readonly why: "damaged" | "parent_changed" | "too_old" };

/**
 * Decides whether a build is stale. Pure.
 * @param currentParentBuildId the build that the parent's name stands for now; undefined when that parent is gone. Then
 *   there is nothing to build from, and the template stays as it is.
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
