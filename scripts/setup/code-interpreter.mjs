/**
 * The root disk of template code-interpreter-v1: that of base, with the service of `src/code-interpreter/` and Python
 * packages added. The packages are wheels with pinned digests, and their bytecode is made by the guest's own Python.
 */
import { execFileSync, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { run } from "./command.mjs";
import { filesBelow, hashOf, partialName, placeAtomically, readJson, requireFreeSpace, writeJson } from "./files.mjs";
import { fileTime, layerDisk } from "./layered-disk.mjs";
import { installPackages } from "./packages.mjs";
import { currentBaseDisk, diskPackages, makeBaseDisk } from "./rootfs.mjs";
import { readStamp, writeStamp } from "./stamps.mjs";

/**
 * What the template has: `lean` is what cells of data analysis need most, `full` all packages of E2B's template, R and
 * Java.
 * @typedef {"lean" | "full"} Variant
 */

/** @type {Readonly<Record<Variant, number>>} */
const neededFreeBytes = { lean: 3 * 2 ** 30, full: 12 * 2 ** 30 };
/** To be raised when this file makes another disk of the same ingredients. */
const layoutVersion = 2;
/** The same for the packages. */
const wheelsVersion = 1;
const serviceFolder = "opt/firkin/code-interpreter";
const packagesFolder = "usr/local/lib/python3.11/dist-packages";
/** Tests that packages bring along; they are a fifth of the whole. */
const testedPackages = ["contourpy", "matplotlib", "mpl_toolkits", "numpy", "pandas"];
/** The Debian root of the full variant: that of base, with what needs Debian's own packages. */
const debianOfFull = {
  name: "r-java",
  stamp: "r-java-disk",
  packages: [
    ...diskPackages,
    "fonts-noto-cjk",
    "openjdk-17-jdk-headless",
    "r-base-core",
    "r-cran-base64enc",
    "r-cran-irdisplay",
    "r-cran-repr",
    "r-recommended",
  ],
  // Java's packages make links in this folder, which is missing without manual pages.
  options: ['--essential-hook=mkdir -p "$1/usr/share/man/man1"'],
};
const pipPackages = [{ name: "python3-pip", why: "downloads the Python packages of template code-interpreter-v1" }];

/** The program that the agent keeps running (src/guest-agent/process/keeper.h). */
const serviceScript = `#!/bin/sh
# The service of template code-interpreter-v1. The agent keeps it running.
set -a
. /etc/environment
# Figures with Chinese, Japanese and Korean, where the template has their font.
if [ -e /usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc ]; then
  MATPLOTLIBRC=/${serviceFolder}/matplotlib.rc
fi
set +a
cd /home/user
exec /usr/bin/python3 /${serviceFolder}/service.py
`;

/**
 * @typedef {import("./roots.mjs").Roots} Roots
 *
 * @typedef {object} CodeInterpreterAsset
 * @property {string} disk Raw ext4 image, read-only to everybody.
 * @property {string} variant
 */

/**
 * @param {Roots} roots
 * @param {Variant} variant
 */
const lockOf = (roots, variant) => join(roots.repository, "scripts/setup/wheels", `${variant}.txt`);

/**
 * The service's files: path below its folder in the guest → absolute path here.
 * @param {Roots} roots
 * @returns {Record<string, string>}
 */
function serviceFiles(roots) {
  const folder = join(roots.repository, "src/code-interpreter");
  const own = filesBelow([folder], (path) => /\.(py|mjs|R|java|rc)$/.test(path)).map((path) => [
    relative(folder, path),
    path,
  ]);
  const acorn = join(roots.repository, "node_modules/acorn");
  const parser = ["package.json", "LICENSE", "dist/acorn.mjs"].map((name) => [
    `javascript/node_modules/acorn/${name}`,
    join(acorn, name),
  ]);
  return Object.fromEntries([...own, ...parser]);
}

/**
 * The disk that the variant's begins with.
 * @param {Roots} roots
 * @param {Variant} variant
 */
const debianOf = (roots, variant) =>
  variant === "full" ? currentBaseDisk(roots, "amd64", debianOfFull) : currentBaseDisk(roots);

/** @param {Roots} roots */
export const currentDebianOfFull = (roots) => debianOf(roots, "full");

/**
 * @param {Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export const makeDebianOfFull = (roots, context) => makeBaseDisk(roots, context, debianOfFull);

/**
 * @param {Roots} roots
 * @param {Variant} variant
 */
function recipe(roots, variant) {
  const files = Object.entries(serviceFiles(roots));
  if (files.some(([, path]) => !fs.existsSync(path))) return "";
  return hashOf(
    { LAYOUT: layoutVersion, SERVICE: serviceScript, BASE: basename(debianOf(roots, variant)?.baseDisk ?? "") },
    fs.readFileSync(lockOf(roots, variant)),
    ...files.flatMap(([name, path]) => [name, fs.readFileSync(path)]),
  );
}

/**
 * The variant's disk, if it is there and is the one that the daemon takes.
 * @param {Roots} roots
 * @param {Variant} variant
 */
export function currentCodeInterpreterDisk(roots, variant) {
  const found = /** @type {CodeInterpreterAsset | undefined} */ (
    readStamp(roots, `code-interpreter-disk-${variant}`, recipe(roots, variant))
  );
  return found?.disk === readJson(indexPath(roots))?.disk ? found : undefined;
}

/**
 * The packages alone, unpacked for this machine's own tests of the service.
 * @param {Roots} roots
 * @param {Variant} variant
 */
export function currentWheels(roots, variant) {
  const found = readStamp(roots, `code-interpreter-wheels-${variant}`, wheelsRecipe(roots, variant));
  return /** @type {{ folder: string } | undefined} */ (found);
}

/**
 * @param {Roots} roots
 * @param {Variant} variant
 */
const wheelsRecipe = (roots, variant) =>
  hashOf({ LAYOUT: wheelsVersion, TESTS: testedPackages }, fs.readFileSync(lockOf(roots, variant)));

/**
 * Downloads the wheels, checks their digests and unpacks them.
 * @param {Roots} roots
 * @param {Variant} variant
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeWheels(roots, variant, context) {
  const decided = wheelsRecipe(roots, variant);
  const folder = join(roots.assets, "code-interpreter", `wheels-${decided.slice(0, 12)}`);
  requireFreeSpace(roots.cache, neededFreeBytes[variant]);
  if (spawnSync("python3", ["-m", "pip", "--version"]).status !== 0) await installPackages(pipPackages, context);
  await placeAtomically(folder, async (partial) => {
    const platforms = ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"];
    await run(
      "python3",
      [
        ...["-m", "pip", "install", "--target", partial, "--requirement", lockOf(roots, variant)],
        ...["--require-hashes", "--no-deps", "--only-binary", ":all:", "--no-compile", "--ignore-installed"],
        ...["--implementation", "cp", "--python-version", "3.11", "--abi", "cp311", "--abi", "abi3", "--abi", "none"],
        ...platforms.flatMap((platform) => ["--platform", platform]),
        ...["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--root-user-action", "ignore"],
      ],
      { ...context, remedy: "check that pip reaches its index (python3 -m pip download six), then start again" },
    );
    // Programs whose first line names this machine's Python.
    fs.rmSync(join(partial, "bin"), { recursive: true, force: true });
    for (const name of testedPackages) {
      if (fs.existsSync(join(partial, name))) removeTests(join(partial, name));
    }
  });
  await writeStamp(roots, `code-interpreter-wheels-${variant}`, decided, { folder });
}

/** @param {string} folder */
function removeTests(folder) {
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    if (!entry.isDirectory()) continue;
    const path = join(folder, entry.name);
    if (entry.name === "tests") fs.rmSync(path, { recursive: true });
    else removeTests(path);
  }
}

/**
 * Makes the variant's disk the one that the daemon takes.
 * @param {Roots} roots
 * @param {Variant} variant
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeCodeInterpreterDisk(roots, variant, context) {
  const known = /** @type {CodeInterpreterAsset | undefined} */ (
    readStamp(roots, `code-interpreter-disk-${variant}`, recipe(roots, variant))
  );
  const disk = known?.disk ?? (await writeDisk(roots, variant, context));
  await writeJson(indexPath(roots), { formatVersion: 1, disk, variant });
}

/**
 * @param {Roots} roots
 * @param {Variant} variant
 * @param {import("./graph.mjs").StepContext} context
 */
async function writeDisk(roots, variant, context) {
  requireFreeSpace(roots.cache, neededFreeBytes[variant]);
  const base = debianOf(roots, variant);
  const wheels = currentWheels(roots, variant);
  if (!base || !wheels) throw new Error("this disk is made after that of base and after the packages");
  const decided = recipe(roots, variant);
  fs.mkdirSync(roots.scratch, { recursive: true });
  const scratch = fs.mkdtempSync(join(roots.scratch, "code-interpreter-"));
  const disk = join(roots.assets, "rootfs", `code-interpreter-${decided.slice(0, 12)}.ext4`);
  const image = partialName(join(roots.assets, "rootfs", "code-interpreter.ext4"));
  try {
    const tree = join(scratch, "tree");
    fs.cpSync(wheels.folder, join(tree, packagesFolder), { recursive: true });
    for (const [name, path] of Object.entries(serviceFiles(roots))) {
      const target = join(tree, serviceFolder, name);
      fs.mkdirSync(dirname(target), { recursive: true });
      fs.copyFileSync(path, target);
    }
    fs.writeFileSync(join(tree, "opt/firkin/service"), serviceScript);
    setModes(tree);
    await compileTree(base.baseDisk, tree, scratch, context);
    setModes(tree);
    await layerDisk({ from: base.baseDisk, tree, image, scratch }, context);
    if (!fs.existsSync(disk)) {
      fs.chmodSync(image, 0o444);
      await placeAtomically(disk, (partial) => fs.renameSync(image, partial));
    }
    await writeStamp(roots, `code-interpreter-disk-${variant}`, decided, { disk, variant });
    return disk;
  } finally {
    fs.rmSync(image, { force: true });
    fs.rmSync(scratch, { recursive: true, force: true });
  }
}

/**
 * What the daemon reads: once this file is there, it makes the template.
 * @param {Roots} roots
 */
const indexPath = (roots) => join(roots.assets, "code-interpreter.json");

/**
 * The variant that this host has had, be it of another version; undefined before the first.
 * @param {Roots} roots
 * @returns {Variant | undefined}
 */
export function chosenVariant(roots) {
  const index = readJson(indexPath(roots));
  return index && (index.variant === "full" ? "full" : "lean");
}

/**
 * Packages may be changed by every user of the guest, as everything below /usr/local; the service by root alone.
 * @param {string} tree
 */
function setModes(tree) {
  const visit = (/** @type {string} */ path, /** @type {number} */ writable) => {
    const info = fs.statSync(path);
    if (info.isDirectory()) {
      for (const name of fs.readdirSync(path)) visit(join(path, name), writable);
      fs.chmodSync(path, 0o755 | writable);
    } else {
      const executable = info.mode & 0o111 || path.endsWith("/firkin/service") ? 0o111 : 0;
      fs.chmodSync(path, 0o644 | writable | executable);
    }
    fs.utimesSync(path, fileTime, fileTime);
  };
  visit(join(tree, "opt"), 0);
  visit(join(tree, "usr"), 0o222);
}

/**
 * Makes the bytecode of everything in the tree with the Python of a disk, run here with the disk's own loader.
 * @param {string} baseDisk
 * @param {string} tree
 * @param {string} scratch
 * @param {import("./graph.mjs").StepContext} context
 */
async function compileTree(baseDisk, tree, scratch, { signal, onLine }) {
  const python = join(scratch, "python");
  fs.mkdirSync(join(python, "lib"), { recursive: true });
  const libraries = ["ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libz.so.1", "libexpat.so.1"];
  const ask = (/** @type {string} */ command) =>
    execFileSync("debugfs", ["-R", command, baseDisk], { encoding: "utf8", stdio: "pipe" });
  for (const name of libraries) {
    const path = `/usr/lib/x86_64-linux-gnu/${name}`;
    const target = /^Fast link dest: "(.+)"$/m.exec(ask(`stat ${path}`))?.[1];
    ask(`dump ${target ? `${dirname(path)}/${basename(target)}` : path} ${join(python, name)}`);
  }
  ask(`dump /usr/bin/python3.11 ${join(python, "python3.11")}`);
  ask(`rdump /usr/lib/python3.11 ${join(python, "lib")}`);
  onLine("compiling the Python packages");
  const loader = join(python, "ld-linux-x86-64.so.2");
  fs.chmodSync(loader, 0o755);
  const compile = ["-S", "-s", "-m", "compileall", "-q", "-j", "0", "-s", tree, "-p", "/"];
  const roots = [join(tree, packagesFolder), join(tree, serviceFolder)];
  await run(loader, ["--library-path", python, join(python, "python3.11"), ...compile, ...roots], {
    env: { PYTHONHOME: python },
    signal,
    onLine,
  });
}
