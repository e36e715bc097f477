/** The kernel of guests: Debian's cloud kernel and the modules that a microVM needs, taken out of its package. */
import * as fs from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { gunzipSync } from "node:zlib";
import { run } from "./command.mjs";
import { guestSuite, mmdebstrap } from "./debian.mjs";
import { filesBelow, hashOf, placeAtomically } from "./files.mjs";
import { SetupError } from "./setup-error.mjs";
import { readStamp, stampName, writeStamp } from "./stamps.mjs";

/**
 * For each of Debian's architectures the package that depends on the newest kernel package, whose kernel has ext4
 * built in, and the modules that guests load at boot, in this order; what they depend on is added before them. QEMU's
 * devices are on virtio-mmio and the agent is at a console port; Apple's are on a PCI bus, and the agent is reached
 * over vsock. There the console comes first, so that it shows what happens after it.
 */
export const kernels = {
  amd64: {
    metaPackage: "linux-image-cloud-amd64",
    modules: ["virtio_mmio", "virtio_console", "virtio_blk", "virtio_net", "virtio-rng", "virtio_balloon"],
  },
  arm64: {
    metaPackage: "linux-image-cloud-arm64",
    modules: ["virtio_pci", "virtio_console", "vmw_vsock_virtio_transport", "virtio_blk", "virtio_net", "virtio-rng"],
  },
};

/** The modules that guests of every architecture load. */
const commonModules = ["overlay", "fuse", "tun"];

/**
 * Folders and files below `kernel/` of the package's modules that lie on the root disk, where the kernel or modprobe
 * load a module when something asks for it: for containers, for file systems in files, for private networks. What these
 * modules depend on lies there too, and so do the modules that guests load at boot.
 */
const diskModules = [
  ...["802", "8021q", "bridge", "ipv4", "ipv6", "key", "llc", "netfilter", "packet", "sched", "tls", "xfrm"].map(
    (name) => `net/${name}`,
  ),
  ...["bonding", "dummy", "ifb", "ipvlan", "macvlan", "macvtap", "tap", "veth", "vrf", "vxlan", "wireguard"].map(
    (name) => `drivers/net/${name}`,
  ),
  ...["block/brd", "block/loop", "block/nbd", "block/zram", "md/dm-"].map((name) => `drivers/${name}`),
  ...["binfmt_misc", "erofs", "exfat", "fat", "fuse", "isofs", "nls", "overlayfs", "squashfs", "udf"].map(
    (name) => `fs/${name}`,
  ),
];

/** Lists of the package that depmod reads. */
const moduleLists = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];

/** @typedef {keyof typeof kernels} Architecture */

/** @param {Architecture} architecture */
const modulesOf = (architecture) => [...kernels[architecture].modules, ...commonModules];

/** @param {Architecture} architecture */
function recipe(architecture) {
  const { metaPackage } = kernels[architecture];
  const modules = { MODULES: modulesOf(architecture), DISK_MODULES: diskModules };
  return hashOf({ format: 2, SUITE: guestSuite, META_PACKAGE: metaPackage, ...modules });
}

/**
 * @typedef {object} KernelAsset
 * @property {string} version Kernel release, as `uname -r` prints it.
 * @property {string} packageVersion
 * @property {string} vmlinuz For arm64 the uncompressed `Image` that Apple's boot loader wants.
 * @property {readonly string[]} modules Absolute paths of the `.ko` files, in load order.
 * @property {string} diskModules The folder that becomes `/lib/modules/<version>` of the root disk, without the lists
 *   that depmod makes.
 */

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} [architecture]
 */
export function currentKernel(roots, architecture = "amd64") {
  return /** @type {KernelAsset | undefined} */ (
    readStamp(roots, stampName("kernel", architecture), recipe(architecture))
  );
}

/**
 * Fetches the kernel package with mmdebstrap and keeps what {@link keepKernel} keeps of it.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeKernel(roots, { signal, onLine }) {
  fs.mkdirSync(roots.scratch, { recursive: true });
  const folder = fs.mkdtempSync(join(roots.scratch, "kernel-"));
  try {
    await mmdebstrap(["--variant=custom", `--customize-hook=${hookPath("fetch-kernel.sh")}`], {
      scratch: roots.scratch,
      env: { FIRKIN_PACKAGE: kernels.amd64.metaPackage, FIRKIN_OUTPUT: folder },
      signal,
      onLine,
    });
    const [archive = "missing.deb"] = filesBelow([folder], (path) => path.endsWith(".deb"));
    const tree = join(folder, "tree");
    await run("dpkg-deb", ["--extract", archive, tree], { signal, onLine });
    const packageVersion = (await run("dpkg-deb", ["--field", archive, "Version"], { signal })).trim();
    await keepKernel(roots, "amd64", tree, packageVersion);
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * Keeps `<assets>/kernel/<version>/{vmlinuz,modules/,disk-modules/}` of an unpacked kernel package.
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} architecture
 * @param {string} tree
 * @param {string} packageVersion
 */
export async function keepKernel(roots, architecture, tree, packageVersion) {
  const [image = ""] = filesBelow([join(tree, "boot")], (path) => basename(path).startsWith("vmlinuz-"));
  const version = basename(image).replace("vmlinuz-", "");
  const moduleTree = join(tree, "lib/modules", version);
  const modules = resolveModules(moduleTree, modulesOf(architecture));
  const name = `${version}_${packageVersion}_${recipe(architecture).slice(0, 8)}`;
  const target = join(roots.assets, "kernel", name);
  if (!fs.existsSync(target)) {
    await placeAtomically(target, (partial) => {
      fs.mkdirSync(join(partial, "modules"), { recursive: true });
      const bytes = fs.readFileSync(image);
      fs.writeFileSync(join(partial, "vmlinuz"), architecture === "arm64" ? kernelImage(bytes) : bytes);
      for (const module of modules) fs.copyFileSync(module, join(partial, "modules", basename(module)));
      keepDiskModules(moduleTree, modules, join(partial, "disk-modules"));
    });
  }
  /** @type {KernelAsset} */
  const asset = {
    version,
    packageVersion,
    vmlinuz: join(target, "vmlinuz"),
    modules: modules.map((module) => join(target, "modules", basename(module))),
    diskModules: join(target, "disk-modules"),
  };
  await writeStamp(roots, stampName("kernel", architecture), recipe(architecture), asset);
}

/**
 * Copies what the root disk has of the package's modules, each to the path it has in the package.
 * @param {string} tree `/lib/modules/<version>` of the package
 * @param {readonly string[]} bootModules
 * @param {string} target
 */
function keepDiskModules(tree, bootModules, target) {
  const prefixes = diskModules.map((name) => join(tree, "kernel", name));
  const chosen = filesBelow(
    [tree],
    (path) => path.endsWith(".ko") && prefixes.some((prefix) => path.startsWith(prefix)),
  );
  const whole = resolveModules(
    tree,
    [...bootModules, ...chosen].map((path) => basename(path, ".ko")),
  );
  for (const path of [...whole, ...moduleLists.map((name) => join(tree, name))]) {
    const copy = join(target, relative(tree, path));
    fs.mkdirSync(dirname(copy), { recursive: true });
    fs.copyFileSync(path, copy);
  }
}

/**
 * The `Image` of an arm64 kernel package, whose vmlinuz is that image, plain or compressed with gzip.
 * @param {Buffer} file
 */
export function kernelImage(file) {
  const image = file.readUInt16BE(0) === 0x1f8b ? gunzipSync(file) : file;
  if (image.toString("latin1", 56, 60) === "ARM\u0064") return image;
  throw new SetupError(
    "the kernel package holds no arm64 Image",
    `look at what ${kernels.arm64.metaPackage} has in /boot now`,
  );
}

/**
 * The wanted modules and those that they depend on, each after its dependencies. A dependency without a file is built
 * in.
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
