/** Stamps: what each step made and from which recipe, so that a step runs again only when its recipe has changed. */
import * as fs from "node:fs";
import { join } from "node:path";
import { readJson, writeJson } from "./files.mjs";

/**
 * The name under which a step remembers what it made for guests of an architecture.
 * @param {string} step
 * @param {import("./kernel.mjs").Architecture} architecture
 */
export function stampName(step, architecture) {
  return architecture === "amd64" ? step : `${step}-${architecture}`;
}

/**
 * The result of the step, if this recipe made it and its files still exist.
 * @param {import("./roots.mjs").Roots} roots
 * @param {string} step
 * @param {string} recipe Hash of everything that decides the result.
 * @returns {unknown}
 */
export function readStamp(roots, step, recipe) {
  const stamp = readJson(stampPath(roots, step));
  if (stamp?.recipe !== recipe) return undefined;
  const paths = Object.values(stamp.result)
    .flat()
    .filter((value) => String(value).startsWith("/"));
  return paths.every((path) => fs.existsSync(path)) ? stamp.result : undefined;
}

/**
 * Writes the stamp of a step. It comes last, when everything that `result` names is whole and on disk.
 * @param {import("./roots.mjs").Roots} roots
 * @param {string} step
 * @param {string} recipe
 * @param {object} result Absolute paths in it name files that must exist for the stamp to be valid.
 */
export async function writeStamp(roots, step, recipe, result) {
  await writeJson(stampPath(roots, step), { recipe, result });
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {string} step
 */
function stampPath(roots, step) {
  return join(roots.assets, "stamps", `${step}.json`);
}
