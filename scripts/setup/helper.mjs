/** The helper firkin-vz for this Mac, and Apple's command line tools, which build and sign it. */
import * as fs from "node:fs";
import { join, relative } from "node:path";
import { run } from "./command.mjs";
import { filesBelow, hashOf } from "./files.mjs";
import { SetupError } from "./setup-error.mjs";
import { readStamp, writeStamp } from "./stamps.mjs";
import { askSwift } from "./swift-tools.mjs";

/** Whether a Swift is there that can build the helper. */
export function commandLineToolsThere() {
  return askSwift().remedy === undefined;
}

/** @throws {SetupError} saying how to install or update them, because the installer asks on the screen */
export async function refuseWithoutCommandLineTools() {
  const { detail, remedy } = askSwift();
  if (remedy !== undefined) throw new SetupError(detail, `${remedy}; then start again`);
}

/**
 * The path of the helper, where the daemon looks for it.
 * @param {import("./roots.mjs").Roots} roots
 */
export function helperPath(roots) {
  return join(roots.assets, "vz/firkin-vz");
}

/**
 * Hash of the helper's sources.
 * @param {import("./roots.mjs").Roots} roots
 */
export function helperSourceHash(roots) {
  const folder = join(roots.repository, "helper-swift");
  const sources = filesBelow([folder], (path) => /(Package\.swift|\/Sources\/.*\.(swift|c|h))$/.test(path));
  return hashOf(...sources.flatMap((path) => [relative(folder, path), fs.readFileSync(path)]));
}

/** @param {import("./roots.mjs").Roots} roots */
function recipe(roots) {
  const files = ["scripts/setup/build-helper", "helper-swift/vz.entitlements"].map((name) =>
    join(roots.repository, name),
  );
  return hashOf(helperSourceHash(roots), ...files.map((path) => fs.readFileSync(path)));
}

/** @param {import("./roots.mjs").Roots} roots */
export function currentHelper(roots) {
  return /** @type {{ helper: string } | undefined} */ (readStamp(roots, "vz-helper", recipe(roots)));
}

/**
 * Builds and signs the helper.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeHelper(roots, { signal, onLine }) {
  const helper = helperPath(roots);
  const remedy = "see the output above; scripts/setup/build-helper runs this step alone";
  await run(join(roots.repository, "scripts/setup/build-helper"), [helper], { signal, onLine, remedy });
  await writeStamp(roots, "vz-helper", recipe(roots), { helper });
}
