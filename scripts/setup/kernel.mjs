/** The guest's kernel: Debian's cloud kernel and the modules a microVM needs, taken out of its package. */
import * as fs from "node:fs";
import { basename, join } from "node:path";
import { run } from "./command.mjs";
import { mmdebstrap, SUITE } from "./debian.mjs";
import { filesBelow, hashOf, placeAtomically } from "./files.mjs";
import { readStamp, writeStamp } from "./stamps.mjs";

/** The package that depends on the newest kernel package. Its kernel has ext4 built in, and virtio as modules. */
const META_PACKAGE = "linux-image-cloud-amd64";

/** Modules the guest loads at boot, in this order; what they depend on is added before them. */
const MODULES = [
  "virtio_mmio",
  "virtio_console",
  "virtio_blk",
  "virtio_net",
  "virtio-rng",
  "virtio_balloon",
  "overlay",
  "fuse",
  "tun",
];

const RECIPE = hashOf({ format: 1, SUITE, META_PACKAGE, MODULES });

/**
 * @typedef {object} KernelAsset
 * @property {string} version Kernel release, as `uname -r` says it.
 * @property {string} packageVersion
 * @property {string} vmlinuz
 * @property {readonly string[]} modules Absolute paths of the `.ko` files, in load order.
 */

/** @param {import("./roots.mjs").Roots} roots */
export function currentKernel(roots) {
  return /** @type {KernelAsset | undefined} */ (readStamp(roots, "kernel", RECIPE));
}

/**
 * Fetches the kernel package and keeps `<assets>/kernel/<version>/{vmlinuz,modules/}`.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeKernel(roots, { signal, onLine }) {
  await withKernelPackage(
    roots,
    META_PACKAGE,
    { signal, onLine },
    async ({ image, modulesFolder, version, packageVersion }) => {
      const target = join(roots.assets, "kernel", `${version}_${packageVersion}_${RECIPE.slice(0, 8)}`);
      const modules = resolveModules(modulesFolder, MODULES);
      if (!fs.existsSync(target)) {
        await placeAtomically(target, (partial) => {
          fs.mkdirSync(join(partial, "modules"), { recursive: true });
          fs.copyFileSync(image, join(partial, "vmlinuz"));
          for (const module of modules) fs.copyFileSync(module, join(partial, "modules", basename(module)));
        });
      }
      /** @type {KernelAsset} */
      const asset = {
        version,
        packageVersion,
        vmlinuz: join(target, "vmlinuz"),
        modules: modules.map((module) => join(target, "modules", basename(module))),
      };
      await writeStamp(roots, "kernel", RECIPE, asset);
    },
  );
}

/**
 * @typedef {object} KernelPackage What is in an unpacked kernel package; gone when its user returns.
 * @property {string} image The bootable image, as the package has it.
 * @property {string} modulesFolder
 * @property {string} version
 * @property {string} packageVersion
 */

/**
 * Fetches the package that a meta package stands for, and unpacks it for `use`.
 * @param {import("./roots.mjs").Roots} roots
 * @param {string} metaPackage
 * @param {import("./graph.mjs").StepContext & { architecture?: string }} context `architecture`: not the host's own.
 * @param {(unpacked: KernelPackage) => Promise<void>} use
 */
export async function withKernelPackage(roots, metaPackage, { signal, onLine, architecture }, use) {
  fs.mkdirSync(roots.scratch, { recursive: true });
  const folder = fs.mkdtempSync(join(roots.scratch, "kernel-"));
  // Nothing of a foreign package is run here.
  const foreign = architecture ? [`--architectures=${architecture}`, "--skip=check/qemu"] : [];
  try {
    await mmdebstrap(["--variant=custom", ...foreign, `--customize-hook=${hookPath("fetch-kernel.sh")}`], {
      scratch: roots.scratch,
      env: { FIRKIN_PACKAGE: metaPackage, FIRKIN_OUTPUT: folder },
      signal,
      onLine,
    });
    const [archive = "missing.deb"] = filesBelow([folder], (path) => path.endsWith(".deb"));
    const tree = join(folder, "tree");
    await run("dpkg-deb", ["--extract", archive, tree], { signal, onLine });
    const packageVersion = (await run("dpkg-deb", ["--field", archive, "Version"], { signal })).trim();
    const [image = ""] = filesBelow([join(tree, "boot")], (path) => basename(path).startsWith("vmlinuz-"));
    const version = basename(image).replace("vmlinuz-", "");
    await use({ image, modulesFolder: join(tree, "lib/modules", version), version, packageVersion });
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * The wanted modules and what they depend on, each after its dependencies. A name without a file is built in.
 * @param {string} folder `/lib/modules/<version>` of the package, which has no modules.dep yet
 * @param {readonly string[]} wanted
 */
export function resolveModules(folder, wanted) {
  const canonical = (/** @type {string} */ name) => name.replaceAll("-", "_");
  const files = new Map(
    filesBelow([folder], (path) => path.endsWith(".ko")).map((path) => [canonical(basename(path, ".ko")), path]),
  );
  /** @type {Set<string>} */
  const ordered = new Set();
  const add = (/** @type {string} */ name) => {
    const file = files.get(canonical(name));
    if (file === undefined || ordered.has(file)) return;
    const depends = /\0depends=([^\0]*)\0/.exec(fs.readFileSync(file, "latin1"))?.[1] ?? "";
    for (const dependency of depends.split(",")) add(dependency);
    ordered.add(file);
  };
  for (const name of wanted) {
    if (!files.has(canonical(name))) throw new Error(`the kernel package has no module ${name}`);
    add(name);
  }
  return [...ordered];
}

/**
 * Path of a hook that mmdebstrap runs; it lies beside this file.
 * @param {string} name
 */
export function hookPath(name) {
  return new URL(`hooks/${name}`, import.meta.url).pathname;
}
