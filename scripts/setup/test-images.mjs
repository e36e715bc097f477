/**
 * The root of a Debian as one layer of an image, for tests of templates from images: no registry with real images can be
 * reached where they run. Other distributions are made of it in the tests.
 */
import * as fs from "node:fs";
import { join } from "node:path";
import { mmdebstrap } from "./debian.mjs";
import { hashOf, placeAtomically } from "./files.mjs";
import { readStamp, writeStamp } from "./stamps.mjs";

const packages = ["ca-certificates", "python3-minimal", "sudo"];
const left = ["doc", "man", "info", "locale", "lintian"];
const recipe = hashOf({ PACKAGES: packages, LEFT: left });

/** @param {import("./roots.mjs").Roots} roots */
export function currentTestImages(roots) {
  return /** @type {{ debian: string } | undefined} */ (readStamp(roots, "test-images", recipe));
}

/**
 * Makes `<assets>/test-images/debian.tar`.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeTestImages(roots, { signal, onLine }) {
  const folder = join(roots.assets, "test-images");
  fs.mkdirSync(folder, { recursive: true });
  const unfinished = join(roots.scratch, `test-image-${process.pid}.tar`);
  try {
    await mmdebstrap(
      [
        "--variant=minbase",
        "--dpkgopt=force-unsafe-io",
        ...left.map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`),
        `--include=${packages.join(",")}`,
      ],
      { scratch: roots.scratch, target: unfinished, signal, onLine },
    );
    const debian = join(folder, "debian.tar");
    await placeAtomically(debian, (partial) => fs.copyFileSync(unfinished, partial));
    await writeStamp(roots, "test-images", recipe, { debian });
  } finally {
    fs.rmSync(unfinished, { force: true });
  }
}
