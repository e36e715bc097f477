/**
 * The files that guests boot, made without any of Debian's tools on the host: the kernel out of its package, the
 * agent and the root disk by guest jobs. A Mac makes them so, and `scripts/verify/guest-files.mjs` on Linux.
 */
import * as fs from "node:fs";
import { basename, join, relative } from "node:path";
import { agentSources, keepAgent } from "./agent.mjs";
import { run } from "./command.mjs";
import { currentGuestPackages } from "./debian-lock.mjs";
import { download } from "./downloads.mjs";
import { filesBelow } from "./files.mjs";
import { bsdtar, runGuestJob } from "./guest-job.mjs";
import { currentKernel, hookPath, keepKernel } from "./kernel.mjs";
import { baseDiskMiB, placeBaseDisk } from "./rootfs.mjs";

/**
 * @typedef {import("./kernel.mjs").Architecture} Architecture
 * @typedef {import("./graph.mjs").StepContext} StepContext
 * @typedef {import("./guest-job.mjs").Boot} Boot
 */

/** The disk of a job that needs only the outbox. */
const noDiskMiB = 1;

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} architecture
 * @param {StepContext} context
 */
export async function makeGuestKernel(roots, architecture, context) {
  const { kernel } = packagesOf(roots, architecture);
  const [archive = ""] = await download(kernel, roots.downloads, context);
  fs.mkdirSync(roots.scratch, { recursive: true });
  const folder = fs.mkdtempSync(join(roots.scratch, "kernel-"));
  const unpack = (/** @type {string[]} */ ...args) => run(bsdtar, ["-C", folder, "-xf", ...args], context);
  try {
    await unpack(archive, "data.tar.*");
    const [data = ""] = fs.readdirSync(folder);
    await unpack(join(folder, data), "./boot", "./lib/modules");
    await keepKernel(roots, architecture, folder, kernel[0]?.version ?? "");
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} architecture
 * @param {Boot} boot
 * @param {StepContext} context
 */
export async function makeGuestAgent(roots, architecture, boot, context) {
  const files = Object.fromEntries(Object.entries(agentSources(roots)).map(([name, path]) => [`source/${name}`, path]));
  const { compiler } = packagesOf(roots, architecture);
  const job = { script: hookPath("guest-agent.sh"), tools: compiler, files, diskMiB: noDiskMiB };
  fs.mkdirSync(roots.scratch, { recursive: true });
  const disk = join(roots.scratch, `agent-${process.pid}.disk`);
  try {
    await runGuestJob({ roots, kernel: kernelOf(roots, architecture), boot }, job, disk, context, (outbox) => {
      return keepAgent(roots, architecture, join(outbox, "firkin-agent"));
    });
  } finally {
    fs.rmSync(disk, { force: true });
  }
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} architecture
 * @param {Boot} boot
 * @param {StepContext} context
 */
export async function makeGuestBaseDisk(roots, architecture, boot, context) {
  const { tools, required, disk } = packagesOf(roots, architecture);
  const others = disk.filter(({ name }) => !required.some((other) => other.name === name));
  const files = {
    ...named("required", await download(required, roots.downloads, context)),
    ...named("packages", await download(others, roots.downloads, context)),
    "finish-root.sh": hookPath("finish-root.sh"),
  };
  const host = { roots, kernel: kernelOf(roots, architecture), boot };
  await placeBaseDisk(roots, architecture, context, async ({ image, kernel, archives, packageList }) => {
    const all = { ...files, ...below(archives, "archives"), ...below(kernel.diskModules, `modules/${kernel.version}`) };
    const job = { script: hookPath("guest-base-disk.sh"), tools, files: all, diskMiB: baseDiskMiB };
    await runGuestJob(host, job, image, context, (outbox) => fs.copyFileSync(join(outbox, "packages"), packageList));
  });
}

/**
 * All files below a folder, by the names that a job has them under.
 * @param {string} folder
 * @param {string} name
 */
function below(folder, name) {
  return Object.fromEntries(filesBelow([folder]).map((path) => [join(name, relative(folder, path)), path]));
}

/**
 * Names in a folder that sort as the paths are given.
 * @param {string} folder
 * @param {readonly string[]} paths
 */
function named(folder, paths) {
  const number = (/** @type {number} */ index) => String(index).padStart(3, "0");
  return Object.fromEntries(paths.map((path, index) => [`${folder}/${number(index)}-${basename(path)}`, path]));
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} architecture
 */
function packagesOf(roots, architecture) {
  const packages = currentGuestPackages(roots, architecture);
  if (!packages) throw new Error("the packages are used before they are resolved");
  return packages;
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} architecture
 */
function kernelOf(roots, architecture) {
  const kernel = currentKernel(roots, architecture);
  if (!kernel) throw new Error("a guest job runs before its kernel is made");
  return kernel;
}
