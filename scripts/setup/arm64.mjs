/**
 * What guests of the vz engine boot: Debian's arm64 kernel as the uncompressed `Image` that Apple's boot loader wants, and
 * an initramfs with the agent cross-compiled. Made on Linux by any Debian toolchain, for a Mac to be given; the root disk is
 * not among it, because the packages' own scripts would have to be run on an arm64 processor.
 */
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { basename, join } from "node:path";
import { gunzipSync } from "node:zlib";
import { agentSourceHash } from "./agent.mjs";
import { run } from "./command.mjs";
import { SUITE } from "./debian.mjs";
import { filesBelow, hashOf, placeAtomically } from "./files.mjs";
import { makeInitramfs } from "./initramfs.mjs";
import { resolveModules, withKernelPackage } from "./kernel.mjs";
import { SetupError } from "./setup-error.mjs";
import { readStamp, writeStamp } from "./stamps.mjs";

const META_PACKAGE = "linux-image-cloud-arm64";
const COMPILER = "aarch64-linux-gnu-gcc";

/** In load order. Apple's devices are on a PCI bus, and the agent is reached over vsock. */
const MODULES = [
  "virtio_pci",
  "vmw_vsock_virtio_transport",
  "virtio_blk",
  "virtio_net",
  "virtio-rng",
  "overlay",
  "fuse",
  "tun",
];

/**
 * @typedef {object} Arm64Assets
 * @property {string} kernel Uncompressed arm64 `Image`.
 * @property {string} kernelSha256
 * @property {string} kernelVersion
 * @property {string} initramfs
 * @property {string} initramfsSha256
 * @property {string} agent
 */

/** @param {import("./roots.mjs").Roots} roots */
const recipe = (roots) => hashOf({ format: 1, SUITE, META_PACKAGE, MODULES, COMPILER }, agentSourceHash(roots));

/** @param {import("./roots.mjs").Roots} roots */
export function currentArm64Assets(roots) {
  return /** @type {Arm64Assets | undefined} */ (readStamp(roots, "arm64", recipe(roots)));
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeArm64Assets(roots, { signal, onLine }) {
  const folder = join(roots.assets, "arm64");
  fs.mkdirSync(folder, { recursive: true });
  const agent = join(folder, `agent-${agentSourceHash(roots).slice(0, 12)}`);
  await compileAgent(roots, agent, { signal, onLine });
  const context = { signal, onLine, architecture: "arm64" };
  await withKernelPackage(roots, META_PACKAGE, context, async ({ image, modulesFolder, version, packageVersion }) => {
    const bytes = kernelImage(fs.readFileSync(image));
    const kernel = join(folder, `Image-${packageVersion}-${hashOf(bytes).slice(0, 12)}`);
    await placeAtomically(kernel, (partial) => fs.writeFileSync(partial, bytes));
    const initramfs = await makeInitramfs(roots, { modules: resolveModules(modulesFolder, MODULES), agent });
    /** @type {Arm64Assets} */
    const assets = {
      ...{ kernel, kernelSha256: sha256(kernel), kernelVersion: version },
      ...{ initramfs, initramfsSha256: sha256(initramfs), agent },
    };
    await writeStamp(roots, "arm64", recipe(roots), assets);
  });
}

/**
 * The `Image` in what a kernel package has as its vmlinuz: either itself or compressed with gzip.
 * @param {Buffer} file
 */
export function kernelImage(file) {
  const image = file.readUInt16BE(0) === 0x1f8b ? gunzipSync(file) : file;
  if (image.toString("latin1", 56, 60) === "ARM\u0064") return image;
  throw new SetupError("the kernel package holds no arm64 Image", `look what ${META_PACKAGE} has in /boot now`);
}

/**
 * Compiles a copy of the sources: the agent of this host has its objects beside them.
 * @param {import("./roots.mjs").Roots} roots
 * @param {string} agent
 * @param {import("./graph.mjs").StepContext} context
 */
async function compileAgent(roots, agent, { signal, onLine }) {
  fs.mkdirSync(roots.scratch, { recursive: true });
  const scratch = fs.mkdtempSync(join(roots.scratch, "arm64-agent-"));
  const source = join(roots.repository, "src/guest-agent");
  try {
    for (const path of filesBelow([source], (name) => /(\.[ch]|\/Makefile)$/.test(name) && !name.includes("/build/"))) {
      fs.copyFileSync(path, join(scratch, basename(path)));
    }
    const make = ["-C", scratch, "-j2", `CC=${COMPILER}`, "build/firkin-agent"];
    await run("make", make, { signal, onLine, remedy: "see the compiler's words above" });
    await placeAtomically(agent, (partial) => {
      fs.copyFileSync(join(scratch, "build/firkin-agent"), partial);
      fs.chmodSync(partial, 0o755);
    });
  } finally {
    fs.rmSync(scratch, { recursive: true, force: true });
  }
}

/** @param {string} path */
const sha256 = (path) => createHash("sha256").update(fs.readFileSync(path)).digest("hex");
