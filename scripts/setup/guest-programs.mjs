/**
 * Static programs for images that lack a shell: Debian's bash and busybox. The daemon puts them on the disks that it
 * makes of such images; a guest runs them, never the host.
 */
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { basename, join } from "node:path";
import { run } from "./command.mjs";
import { guestSuite, mmdebstrap } from "./debian.mjs";
import { filesBelow, hashOf, placeAtomically, writeJson } from "./files.mjs";
import { hookPath } from "./kernel.mjs";
import { readStamp, writeStamp } from "./stamps.mjs";

const packages = ["bash-static", "busybox-static"];
const recipe = hashOf({ format: 1, SUITE: guestSuite, PACKAGES: packages });

/** @param {import("./roots.mjs").Roots} roots */
export function currentGuestPrograms(roots) {
  return /** @type {{ folder: string, index: string } | undefined} */ (readStamp(roots, "guest-programs", recipe));
}

/**
 * Keeps `<assets>/programs/<versions>/{bash,busybox}`, and writes `<assets>/programs.json`, which the daemon reads.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeGuestPrograms(roots, { signal, onLine }) {
  fs.mkdirSync(roots.scratch, { recursive: true });
  const scratch = fs.mkdtempSync(join(roots.scratch, "programs-"));
  try {
    await mmdebstrap(["--variant=custom", `--customize-hook=${hookPath("fetch-packages.sh")}`], {
      scratch: roots.scratch,
      env: { FIRKIN_PACKAGES: packages.join(" "), FIRKIN_OUTPUT: scratch },
      signal,
      onLine,
    });
    const tree = join(scratch, "tree");
    const archives = filesBelow([scratch], (path) => path.endsWith(".deb"));
    for (const archive of archives) await run("dpkg-deb", ["--extract", archive, tree], { signal, onLine });
    const id = hashOf(recipe, ...archives.map((path) => basename(path)).sort()).slice(0, 12);
    const folder = join(roots.assets, "programs", id);
    if (!fs.existsSync(folder)) {
      await placeAtomically(folder, (partial) => {
        fs.mkdirSync(partial, { recursive: true });
        fs.copyFileSync(join(tree, "bin/bash-static"), join(partial, "bash"));
        fs.copyFileSync(join(tree, "bin/busybox"), join(partial, "busybox"));
      });
    }
    const [bash, busybox] = [join(folder, "bash"), join(folder, "busybox")];
    const applets = execFileSync(busybox, ["--list"], { encoding: "utf8" }).split("\n").filter(Boolean);
    const index = join(roots.assets, "programs.json");
    await writeJson(index, { id, bash, busybox, applets });
    await writeStamp(roots, "guest-programs", recipe, { folder, index });
  } finally {
    fs.rmSync(scratch, { recursive: true, force: true });
  }
}
