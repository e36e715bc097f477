/**
 * Programs for tests alone. They are kept beside the assets, because installed ones would run as services.
 */
import * as fs from "node:fs";
import { join } from "node:path";
import { run } from "./command.mjs";
import { filesBelow, hashOf, placeAtomically } from "./files.mjs";
import { readStamp, writeStamp } from "./stamps.mjs";

const packages = ["prometheus", "docker-registry"];
const programs = ["prometheus", "promtool", "docker-registry"];
const recipe = hashOf({ PACKAGES: packages, PROGRAMS: programs });

/** @param {import("./roots.mjs").Roots} roots */
export function currentTestTools(roots) {
  return /** @type {{ bin: string } | undefined} */ (readStamp(roots, "test-tools", recipe));
}

/**
 * Takes the programs out of the distribution's packages into `<assets>/test-tools/bin`.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeTestTools(roots, { signal, onLine }) {
  fs.mkdirSync(roots.scratch, { recursive: true });
  const scratch = fs.mkdtempSync(join(roots.scratch, "test-tools-"));
  const remedy = "check that apt reaches its mirror (apt-get update), then start again";
  const download = () =>
    run("apt-get", ["-o", "APT::Sandbox::User=root", "download", ...packages], {
      cwd: scratch,
      signal,
      onLine,
      remedy,
    });
  try {
    try {
      await download();
    } catch (error) {
      signal.throwIfAborted();
      onLine(error instanceof Error ? error.message : String(error));
      await run("apt-get", ["update", "-o", "DPkg::Lock::Timeout=300"], { signal, onLine, remedy });
      await download();
    }
    for (const archive of filesBelow([scratch], (path) => path.endsWith(".deb"))) {
      await run("dpkg-deb", ["--extract", archive, join(scratch, "tree")], { signal, onLine });
    }
    const bin = join(roots.assets, "test-tools/bin");
    await placeAtomically(bin, (partial) => {
      fs.mkdirSync(partial, { recursive: true });
      for (const program of programs) fs.copyFileSync(join(scratch, "tree/usr/bin", program), join(partial, program));
    });
    await writeStamp(roots, "test-tools", recipe, { bin });
  } finally {
    fs.rmSync(scratch, { recursive: true, force: true });
  }
}
