/**
 * Which templates are stale: made from a parent that has a newer build since, older than they may be, or damaged. They are built
 * again from what is kept with the build, beside the old one, which serves until the new one is published.
 */
import { z } from "zod";
import type { SourcedBuild } from "../ledger/template-builds.ts";
import type { BuildSpec } from "./build-spec.ts";

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

const text = z.string();
const step = z.discriminatedUnion("type", [
  z.object({ type: z.literal("RUN"), command: text, user: text }),
  z.object({ type: z.literal("ENV"), pairs: z.array(z.tuple([text, text])) }),
  z.object({ type: z.literal("WORKDIR"), path: text }),
  z.object({ type: z.literal("USER"), name: text }),
  z.object({
    type: z.literal("COPY"),
    source: text,
    destination: text,
    owner: text,
    mode: text,
    filesHash: text,
  }),
]);
const storedSpec = z.object({
  from: z.object({ name: text, tag: text.optional() }),
  steps: z.array(step),
  startCommand: text.optional(),
  readyCommand: text.optional(),
});

/** What a build was made from, as the ledger keeps it. @throws ZodError when an other version wrote it. */
export function parseStoredSpec(json: string): BuildSpec {
  const { from, steps, startCommand, readyCommand } = storedSpec.parse(JSON.parse(json));
  return { from: { name: from.name, tag: from.tag }, steps, startCommand, readyCommand };
}
