/**
 * The list of Debian packages that guests' files are made from where there is no mmdebstrap: resolved once against
 * the day's signed index and kept, each with its URL and checksum, until `npx firkin setup --upgrade`.
 */
import { join } from "node:path";
import { guestSuite } from "./debian.mjs";
import { readArchive, requiredPackages, withDependencies } from "./debian-archive.mjs";
import { hashOf } from "./files.mjs";
import { kernels } from "./kernel.mjs";
import { diskPackages } from "./rootfs.mjs";
import { readStamp, writeStamp } from "./stamps.mjs";

/** @typedef {import("./debian-archive.mjs").Package} Package */

/** The packages that run a guest job, and those that a job compiles with. */
const toolNames = "dash coreutils dpkg e2fsprogs findutils grep gzip kmod mount sed tar".split(" ");
const compilerNames = [...toolNames, "gcc", "libc6-dev", "make"];
/**
 * apt belongs to Debian's smallest variant. usr-is-merged says that /bin is a link, which it is here from the start.
 */
const baseNames = ["apt", "usr-is-merged"];

/**
 * @typedef {object} GuestPackages Each list is whole, and in an order to unpack in.
 * @property {readonly Package[]} kernel
 * @property {readonly Package[]} tools
 * @property {readonly Package[]} compiler
 * @property {readonly Package[]} required What every Debian has.
 * @property {readonly Package[]} disk All of the root disk's; those of `required` as well.
 *
 * @typedef {import("./kernel.mjs").Architecture} Architecture
 */

/** @param {Architecture} architecture */
const recipe = (architecture) =>
  hashOf(
    { SUITE: guestSuite, TOOLS: toolNames, COMPILER: compilerNames, BASE: baseNames, PACKAGES: diskPackages },
    kernels[architecture].metaPackage,
  );

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} architecture
 */
export function currentGuestPackages(roots, architecture) {
  return /** @type {GuestPackages | undefined} */ (readStamp(roots, `debian-${architecture}`, recipe(architecture)));
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} architecture
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeGuestPackages(roots, architecture, context) {
  const archive = await readArchive(architecture, join(roots.downloads, `index-${architecture}`), context);
  const { metaPackage } = kernels[architecture];
  const image = archive
    .get(metaPackage)
    ?.depends.flat()
    .find((name) => /^linux-image-\d/.test(name));
  const kernel = archive.get(image ?? "");
  if (!kernel) throw new Error(`${metaPackage} names no kernel in Debian's index`);
  const required = requiredPackages(archive);
  const { name, version, url, sha256 } = kernel;
  /** @type {GuestPackages} */
  const packages = {
    kernel: [{ name, version, url, sha256 }],
    tools: withDependencies(archive, toolNames),
    compiler: withDependencies(archive, compilerNames),
    required: withDependencies(archive, [...required, ...baseNames]),
    disk: withDependencies(archive, [...required, ...baseNames, ...diskPackages]),
  };
  await writeStamp(roots, `debian-${architecture}`, recipe(architecture), packages);
}
