/**
 * Programs for tests alone. They are kept beside the assets, because an installed prometheus would run as a service.
 */
import * as fs from "node:fs";
import { join } from "node:path";
import { run } from "./command.mjs";
import { filesBelow, hashOf, placeAtomically } from "./files.mjs";
import { readStamp, writeStamp } from "./stamps.mjs";

const packageName = "prometheus";
const programs = ["prometheus", "promtool"];
const recipe = hashOf({ PACKAGE: packageName, PROGRAMS: programs });

/** @param {import("./roots.mjs").Roots} roots */
export function currentTestTools(roots) {
  return /** @type {{ bin: string } | undefined} */ (readStamp(roots, "test-tools", recipe));
}

/**
 * Takes the programs out of the distribution's package into `<assets>/test-tools/bin`.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeTestTools(roots, { signal, onLine }) {
  fs.mkdirSync(roots.scratch, { recursive: true });
  const scratch = fs.mkdtempSync(join(roots.scratch, "test-tools-"));
  const remedy = "check that apt reaches its mirror (apt-get update), then start again";
  const download = () =>
    run("apt-get", ["-o", "APT::Sandbox::User=root", "download", packageName], {
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
    const [archive = "missing.deb"] = filesBelow([scratch], (path) => path.endsWith(".deb"));
    await run("dpkg-deb", ["--extract", archive, join(scratch, "tree")], { signal, onLine });
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
