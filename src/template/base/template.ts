/**
 * The template `base`, which every host has. This room makes the templates that are the daemon's own, and may call
 * assets, machine and trust.
 */
import type { GuestAssets } from "../assets/guest-assets.ts";
import { warmUp } from "../machine/warm-up.ts";
import { ensureMadeTemplate, type MadeTemplate, type TemplateDependencies } from "./made-template.ts";

export const baseAlias = "base";

const base: MadeTemplate = {
  alias: baseAlias,
  title: "the base template",
  recipeVersion: 6,
  shape: { vcpuCount: 2, memoryMiB: 512, diskMiB: 8192 },
  warmUp,
};

/**
 * Makes sure that `base` exists and is made from these assets by this engine.
 * @param progress called with the name of every step that takes more than a moment, for people
 * @throws DomainError as `ensureMadeTemplate`
 */
export function ensureBaseTemplate(
  deps: TemplateDependencies,
  assets: GuestAssets,
  progress: (step: string) => void,
  signal: AbortSignal,
): Promise<void> {
  return ensureMadeTemplate(deps, base, assets, progress, signal);
}
