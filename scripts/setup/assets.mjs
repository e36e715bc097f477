/**
 * The index of the files that guests boot, `<assets>/assets.json`. Of all that the set-up makes, the daemon reads
 * this file.
 */
import * as fs from "node:fs";
import { join } from "node:path";
import { currentAgent } from "./agent.mjs";
import { hashOf, readJson, writeJson } from "./files.mjs";
import { makeInitramfs } from "./initramfs.mjs";
import { currentKernel } from "./kernel.mjs";
import { currentBaseDisk } from "./rootfs.mjs";

/**
 * @typedef {object} AssetIndex
 * @property {1} formatVersion
 * @property {string} kernel Bootable image, absolute path.
 * @property {string} kernelVersion The kernel release that `uname -r` prints.
 * @property {string} initramfs
 * @property {string} baseDisk Raw ext4 image of template `base`; never written to.
 * @property {number} baseDiskSizeBytes Its virtual size.
 * @property {string} packages List of the base disk's packages, `name version` a line.
 * @property {string} agent The guest agent's executable; it is also in the initramfs.
 * @property {string} agentHash SHA-256 of its sources.
 * @property {string} hash Changes whenever anything above does. The daemon renews templates that were made from
 *   another.
 */

/** @typedef {import("./kernel.mjs").Architecture} Architecture */

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} architecture
 */
function parts(roots, architecture) {
  const kernel = currentKernel(roots, architecture);
  const disk = currentBaseDisk(roots, architecture);
  const agent = currentAgent(roots, architecture);
  if (!kernel || !disk || !agent) return undefined;
  // 2 is the version of the layout of the initramfs.
  return { kernel, disk, agent, hash: hashOf(2, kernel, disk, agent) };
}

/**
 * Whether the index names the newest of everything and all those files exist.
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} [architecture]
 */
export function assetIndexCurrent(roots, architecture = "amd64") {
  const index = readAssetIndex(roots);
  const wanted = parts(roots, architecture)?.hash;
  return wanted !== undefined && index?.hash === wanted && fs.existsSync(index.initramfs);
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @returns {AssetIndex | undefined}
 */
function readAssetIndex(roots) {
  return readJson(join(roots.assets, "assets.json"));
}

/**
 * Makes the initramfs and then the index, which comes last.
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} [architecture]
 */
export async function writeAssetIndex(roots, architecture = "amd64") {
  const found = parts(roots, architecture);
  if (found === undefined) throw new Error("the index is written after kernel, base disk and agent are made");
  const { kernel, disk, agent, hash } = found;
  /** @type {AssetIndex} */
  const index = {
    formatVersion: 1,
    kernel: kernel.vmlinuz,
    kernelVersion: kernel.version,
    initramfs: await makeInitramfs(roots, { modules: kernel.modules, agent: agent.agent }),
    baseDisk: disk.baseDisk,
    baseDiskSizeBytes: disk.virtualSizeBytes,
    packages: disk.packages,
    agent: agent.agent,
    agentHash: agent.hash,
    hash,
  };
  await writeJson(join(roots.assets, "assets.json"), index);
}
