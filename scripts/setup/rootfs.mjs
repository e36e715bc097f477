/**
 * The root disk of template `base`: Debian with what an agent's sandbox is expected to have, as a sparse ext4 image.
 */
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { join } from "node:path";
import { run } from "./command.mjs";
import { guestSuite, mmdebstrap } from "./debian.mjs";
import { hashOf, partialName, placeAtomically, requireFreeSpace } from "./files.mjs";
import { hookPath } from "./kernel.mjs";
import { npmCommand } from "./npm.mjs";
import { SetupError } from "./setup-error.mjs";
import { readStamp, stampName, writeStamp } from "./stamps.mjs";

/** The packages of the disk besides those of every Debian. */
export const diskPackages = [
  "bash",
  "ca-certificates",
  "coreutils",
  "curl",
  "git",
  "iproute2",
  "less",
  // It resolves the sandbox's own name, which sudo looks up each time.
  "libnss-myhostname",
  "netbase",
  "nodejs",
  "openssh-client",
  "procps",
  "python-is-python3",
  "python3",
  "python3-pip",
  "python3-venv",
  "sudo",
  "tzdata",
  "xz-utils",
];

/**
 * The newest npm for Debian's Node.js 18, as one archive: Debian's own npm package would bring 400 others.
 */
const guestNpm = {
  name: "npm@10.9.4",
  integrity: "sha512-OnUG836FwboQIbqtefDNlyR0gTHzIfwRfE3DuiNewBvnMnWEpB0VEXwBlFVgqpNzIgYo/MHh3d2Hel/pszapAA==",
};

export const baseDiskMiB = 8192;
const neededFreeBytes = 4 * 2 ** 30;

/** @param {Architecture} architecture */
function recipe(architecture) {
  const hooks = ["finish-root.sh", architecture === "amd64" ? "base-disk.sh" : "guest-base-disk.sh"];
  return hashOf(
    { SUITE: guestSuite, PACKAGES: diskPackages, NPM: guestNpm, DISK_MIB: baseDiskMiB },
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
 */

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} [architecture]
 */
export function currentBaseDisk(roots, architecture = "amd64") {
  return /** @type {BaseDiskAsset | undefined} */ (
    readStamp(roots, stampName("base-disk", architecture), recipe(architecture))
  );
}

/**
 * Builds the disk with mmdebstrap.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeBaseDisk(roots, { signal, onLine }) {
  await placeBaseDisk(roots, "amd64", { signal, onLine }, async ({ image, npmArchive, packageList }) => {
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
        `--include=${diskPackages.join(",")}`,
        `--customize-hook=${hookPath("base-disk.sh")}`,
      ],
      {
        scratch: roots.scratch,
        env: {
          FIRKIN_IMAGE: image,
          FIRKIN_IMAGE_MIB: String(baseDiskMiB),
          FIRKIN_NPM: npmArchive,
          FIRKIN_PACKAGE_LIST: packageList,
        },
        signal,
        onLine,
      },
    );
  });
}

/**
 * Places a disk as `<assets>/rootfs/base-<hash>.ext4`. The hash is that of its recipe and package versions, so a disk
 * that snapshots stand on is never replaced by another one.
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} architecture
 * @param {import("./graph.mjs").StepContext} context
 * @param {(work: { image: string, npmArchive: string, packageList: string }) => Promise<void>} make Writes the image
 *   and the list of its packages.
 */
export async function placeBaseDisk(roots, architecture, { signal, onLine }, make) {
  requireFreeSpace(roots.cache, neededFreeBytes);
  const folder = join(roots.assets, "rootfs");
  fs.mkdirSync(folder, { recursive: true });
  fs.mkdirSync(roots.scratch, { recursive: true });
  const scratch = fs.mkdtempSync(join(roots.scratch, "base-disk-"));
  const image = partialName(join(folder, `base-${architecture}.ext4`));
  try {
    const packageList = join(scratch, "packages");
    await make({ image, npmArchive: await fetchNpm(scratch, signal, onLine), packageList });
    const name = `base-${hashOf(recipe(architecture), fs.readFileSync(packageList)).slice(0, 12)}`;
    const baseDisk = join(folder, `${name}.ext4`);
    const packages = join(folder, `${name}.packages`);
    await placeAtomically(packages, (partial) => fs.copyFileSync(packageList, partial));
    if (!fs.existsSync(baseDisk)) {
      fs.chmodSync(image, 0o444);
      await placeAtomically(baseDisk, (partial) => fs.renameSync(image, partial));
    }
    const asset = { baseDisk, packages, virtualSizeBytes: baseDiskMiB * 2 ** 20 };
    await writeStamp(roots, stampName("base-disk", architecture), recipe(architecture), asset);
  } finally {
    fs.rmSync(image, { force: true });
    fs.rmSync(scratch, { recursive: true, force: true });
  }
}

/**
 * Downloads the npm of guests and checks that it is the pinned one.
 * @param {string} folder
 * @param {AbortSignal} signal
 * @param {(line: string) => void} onLine
 */
async function fetchNpm(folder, signal, onLine) {
  const [command, args] = npmCommand(["pack", guestNpm.name, "--pack-destination", folder]);
  const remedy = "check that npm reaches its registry (npm ping), then start again";
  await run(command, args, { cwd: folder, signal, onLine, remedy });
  const archive = join(folder, `${guestNpm.name.replace("@", "-")}.tgz`);
  const integrity = `sha512-${createHash("sha512").update(fs.readFileSync(archive)).digest("base64")}`;
  if (integrity !== guestNpm.integrity)
    throw new SetupError(`${guestNpm.name} from the registry does not have the expected checksum`, remedy);
  return archive;
}
