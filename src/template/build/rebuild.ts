/** The rebuild of stale templates: one at a time, parents before their children. */
import { randomUUID } from "node:crypto";
import type { Ledger } from "../../ledger/open.ts";
import { insertBuildJob, listSourcedBuilds, type SourcedBuild } from "../../ledger/template-builds.ts";
import { findCurrentBuild } from "../../ledger/templates.ts";
import type { Logger } from "../../log.ts";
import type { TemplateBuilds } from "./builds.ts";
import { decideFreshness } from "./freshness.ts";
import type { BuildSpec } from "./spec.ts";
import { parseStoredSpec } from "./stored-spec.ts";

export interface StaleRebuildDependencies {
  readonly ledger: Ledger;
  readonly log: Logger;
  readonly builds: TemplateBuilds;
  /** Undefined: no build is ever too old. */
  readonly maxAgeMs: number | undefined;
  /** The ids of builds that a rebuild was tried for; each is tried once. */
  readonly tried: Set<string>;
}

/**
 * Rebuilds until no template is stale, except those whose rebuild fails: the log and the status of that build say why.
 * Does not wait for the build under way once the signal is aborted.
 */
export async function rebuildStale(deps: StaleRebuildDependencies, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const stale = findStale(deps);
    if (!stale) return;
    deps.tried.add(stale.build.id);
    await rebuild(deps, stale, signal);
  }
}

interface StaleBuild {
  readonly build: SourcedBuild;
  readonly spec: BuildSpec;
  readonly why: string;
}

/** The oldest stale build, because a parent is always older than its children. */
function findStale({ ledger, log, maxAgeMs, tried }: StaleRebuildDependencies): StaleBuild | undefined {
  for (const build of listSourcedBuilds(ledger)) {
    if (tried.has(build.id)) continue;
    try {
      const spec = parseStoredSpec(build.spec);
      const { from } = spec;
      // An image is what it was when it was pulled, until the age of its template makes it stale.
      const parent =
        from.kind === "image" ? build.parentBuildId : findCurrentBuild(ledger, from.name, from.tag)?.buildId;
      const freshness = decideFreshness(build, parent, ledger.nowMs(), maxAgeMs);
      if (freshness.state === "fresh") continue;
      if (from.kind === "template" || !from.needsLogin) return { build, spec, why: freshness.why };
      tried.add(build.id);
      const { id: buildID, templateId: templateID } = build;
      log.warn({ templateID, buildID, why: freshness.why }, "a stale template is not rebuilt: its image needs a login");
    } catch (error) {
      log.warn({ err: error, buildID: build.id }, "the freshness of a template cannot be decided");
    }
  }
  return undefined;
}

async function rebuild(
  { ledger, log, builds }: StaleRebuildDependencies,
  stale: StaleBuild,
  signal: AbortSignal,
): Promise<void> {
  const { build, spec, why } = stale;
  const { templateId, tags, vcpuCount, memoryMiB, minFreeDiskMiB } = build;
  const id = randomUUID();
  log.info({ templateID: templateId, buildID: id, staleBuildID: build.id, why }, "rebuilding a stale template");
  const job = insertBuildJob(ledger, { id, templateId, tags, vcpuCount, memoryMiB, minFreeDiskMiB });
  try {
    await builds.start(job, spec);
  } catch (error) {
    builds.refuse(job, error);
    log.warn({ err: error, templateID: templateId }, "a stale template cannot be rebuilt; the old build serves on");
    return;
  }
  await new Promise<void>((resolve) => {
    const stop = () => resolve();
    signal.addEventListener("abort", stop, { once: true });
    void builds.finished(id).then(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    });
  });
}
