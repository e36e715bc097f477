/**
 * The root disk of template `base`: Debian with what an agent's sandbox is expected to have, as a sparse ext4 image.
 */
import * as fs from "node:fs";
import { basename, dirname, join } from "node:path";
import { guestSuite, mmdebstrap } from "./debian.mjs";
import { hashOf, partialName, placeAtomically, requireFreeSpace } from "./files.mjs";
import { archivesOf, fetchArchives } from "./guest-archives.mjs";
import { currentKernel, hookPath } from "./kernel.mjs";
import { readStamp, stampName, writeStamp } from "./stamps.mjs";

/** The packages of the disk besides those of every Debian. */
export const diskPackages = [
  "bash",
  "bc",
  "bind9-dnsutils",
  "bzip2",
  "ca-certificates",
  "coreutils",
  "curl",
  "file",
  "fuse3",
  "g++",
  "gcc",
  "gh",
  "git",
  "gnupg",
  "iproute2",
  "iputils-ping",
  "jq",
  // It loads modules, for the kernel as well.
  "kmod",
  "less",
  "libc6-dev",
  // What AppImages start with.
  "libfuse2",
  // It resolves the sandbox's own name, which sudo looks up each time.
  "libnss-myhostname",
  "lsof",
  "make",
  "nano",
  "netbase",
  "netcat-openbsd",
  "openssh-client",
  "patch",
  "procps",
  "python-is-python3",
  "python3",
  "python3-pip",
  "python3-venv",
  "ripgrep",
  "rsync",
  "sqlite3",
  "strace",
  "sudo",
  "tmux",
  "tree",
  "tzdata",
  "unzip",
  "vim",
  "wget",
  "xxd",
  "xz-utils",
  "zip",
  "zstd",
];

export const baseDiskMiB = 8192;
const neededFreeBytes = 4 * 2 ** 30;

/**
 * @typedef {object} DebianDisk A root disk of Debian packages.
 * @property {string} name Of its file.
 * @property {string} stamp
 * @property {readonly string[]} packages
 * @property {readonly string[]} options Further options of mmdebstrap.
 */

/** @type {DebianDisk} */
const base = { name: "base", stamp: "base-disk", packages: diskPackages, options: [] };

/**
 * What decides the disk, besides the versions of its Debian packages.
 * @param {DebianDisk} disk
 * @param {Architecture} architecture
 * @param {import("./kernel.mjs").KernelAsset | undefined} kernel None: no disk is current.
 */
function recipe({ packages }, architecture, kernel) {
  const hooks = ["finish-root.sh", architecture === "amd64" ? "base-disk.sh" : "guest-base-disk.sh"];
  return hashOf(
    { SUITE: guestSuite, PACKAGES: packages, ARCHIVES: archivesOf(architecture), DISK_MIB: baseDiskMiB },
    { KERNEL: kernel && basename(dirname(kernel.diskModules)) },
    ...hooks.map((name) => fs.readFileSync(hookPath(name))),
  );
}

/**
 * @typedef {import("./kernel.mjs").Architecture} Architecture
 *
 * @typedef {object} BaseDiskAsset
 * @property {string} baseDisk Raw ext4 image, read-only to everybody.
 * @property {string} packages List of its packages, `name version` a line.
 * @property {number} virtualSizeBytes
 *
 * @typedef {object} DiskWork
 * @property {string} image Path of the image to write.
 * @property {import("./kernel.mjs").KernelAsset} kernel
 * @property {string} archives Folder with the pinned npm packages, `NAME.tgz` each.
 * @property {string} packageList Path of the list to write.
 */

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} [architecture]
 * @param {DebianDisk} [disk]
 */
export function currentBaseDisk(roots, architecture = "amd64", disk = base) {
  const decided = recipe(disk, architecture, currentKernel(roots, architecture));
  return /** @type {BaseDiskAsset | undefined} */ (readStamp(roots, stampName(disk.stamp, architecture), decided));
}

/**
 * Builds a disk with mmdebstrap.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 * @param {DebianDisk} [disk]
 */
export async function makeBaseDisk(roots, { signal, onLine }, disk = base) {
  const make = async (/** @type {DiskWork} */ { image, kernel, archives, packageList }) => {
    await mmdebstrap(
      [
        "--variant=minbase",
        "--skip=cleanup",
        "--dpkgopt=force-unsafe-io",
        ...["doc", "man", "info", "locale", "lintian", "groff"].map(
          (name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`,
        ),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        // This file names the distribution's own servers; see hooks/finish-root.sh.
        "--dpkgopt=path-include=/usr/share/doc/apt/examples/sources.list",
        ...disk.options,
        `--include=${disk.packages.join(",")}`,
        `--customize-hook=${hookPath("base-disk.sh")}`,
      ],
      {
        scratch: roots.scratch,
        env: {
          FIRKIN_IMAGE: image,
          FIRKIN_IMAGE_MIB: String(baseDiskMiB),
          FIRKIN_ARCHIVES: archives,
          FIRKIN_MODULES: kernel.diskModules,
          FIRKIN_KERNEL: kernel.version,
          FIRKIN_PACKAGE_LIST: packageList,
        },
        signal,
        onLine,
      },
    );
  };
  await placeBaseDisk(roots, "amd64", { signal, onLine }, make, disk);
}

/**
 * Places a disk as `<assets>/rootfs/NAME-<hash>.ext4`. The hash is that of its recipe and package versions, so a disk
 * that snapshots stand on is never replaced by another one.
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} architecture
 * @param {import("./graph.mjs").StepContext} context
 * @param {(work: DiskWork) => Promise<void>} make Writes the image and the list of its packages.
 * @param {DebianDisk} [disk]
 */
export async function placeBaseDisk(roots, architecture, { signal, onLine }, make, disk = base) {
  requireFreeSpace(roots.cache, neededFreeBytes);
  const folder = join(roots.assets, "rootfs");
  fs.mkdirSync(folder, { recursive: true });
  fs.mkdirSync(roots.scratch, { recursive: true });
  const scratch = fs.mkdtempSync(join(roots.scratch, `${disk.stamp}-`));
  const image = partialName(join(folder, `${disk.name}-${architecture}.ext4`));
  try {
    const kernel = currentKernel(roots, architecture);
    if (!kernel) throw new Error("the root disk is made before its kernel");
    const packageList = join(scratch, "packages");
    const archives = join(scratch, "archives");
    await fetchArchives(architecture, archives, signal, onLine);
    await make({ image, kernel, archives, packageList });
    const decided = recipe(disk, architecture, kernel);
    const name = `${disk.name}-${hashOf(decided, fs.readFileSync(packageList)).slice(0, 12)}`;
    const baseDisk = join(folder, `${name}.ext4`);
    const packages = join(folder, `${name}.packages`);
    await placeAtomically(packages, (partial) => fs.copyFileSync(packageList, partial));
    if (!fs.existsSync(baseDisk)) {
      fs.chmodSync(image, 0o444);
      await placeAtomically(baseDisk, (partial) => fs.renameSync(image, partial));
    }
    const asset = { baseDisk, packages, virtualSizeBytes: baseDiskMiB * 2 ** 20 };
    await writeStamp(roots, stampName(disk.stamp, architecture), decided, asset);
  } finally {
    fs.rmSync(image, { force: true });
    fs.rmSync(scratch, { recursive: true, force: true });
  }
}
