/**
 * Swift for tests: a Debian 13 root in the cache that holds the compiler, and `firkin-vz` built in it against the
 * simulated framework. Nothing that serves sandboxes on Linux needs either, so a host that cannot make them is told
 * why and goes on.
 */
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { run } from "./command.mjs";
import { mmdebstrap, removeUnmounted } from "./debian.mjs";
import { freeBytes, hashOf, placeAtomically } from "./files.mjs";
import { helperSourceHash } from "./helper.mjs";
import { readStamp, writeStamp } from "./stamps.mjs";

const suite = "trixie";
const packages = ["swiftlang", "libc6-dev", "libstdc++-14-dev"];
const neededFreeBytes = 6 * 2 ** 30;
const rootRecipe = hashOf({ format: 1, SUITE: suite, PACKAGES: packages });

/**
 * Debian's compiler names three libraries of ICU when it links a static program, and has none of them. Empty archives
 * suffice, because nothing here uses ICU.
 */
const emptyArchives = ["icui18nswift", "icuucswift", "icudataswift"];
const staticFolder = "/usr/libexec/swift/lib/swift_static/linux";

/** Options for a static program, which runs on the host whatever C library that has. */
const staticOptions = [
  ...["-Xswiftc", "-static-executable", "-Xlinker", "--no-warnings"],
  ...["-Xswiftc", "-Xclang-linker", "-Xswiftc", "-Wno-unused-command-line-argument"],
];

/**
 * @typedef {{ root?: string, reason?: string }} SwiftRoot Either the root, or the reason why there is none.
 */

/** @param {import("./roots.mjs").Roots} roots */
export function currentSwiftRoot(roots) {
  return /** @type {SwiftRoot | undefined} */ (readStamp(roots, "swift-root", hostRecipe()));
}

/** The recipe with the obstacle of this host in it, so that the step runs again once the obstacle has gone. */
function hostRecipe() {
  return hashOf(rootRecipe, obstacle() ?? "");
}

/** The reason why no root can be made or entered here, or undefined. */
function obstacle() {
  if (process.getuid?.() !== 0) return "only root can make and enter a Debian root";
  try {
    execFileSync("unshare", ["--mount", "mount", "-t", "tmpfs", "none", "/mnt"], { stdio: "ignore" });
    return undefined;
  } catch {
    return "nothing can be mounted here (a container without CAP_SYS_ADMIN)";
  }
}

/**
 * Makes `<assets>/swift/root`.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeSwiftRoot(roots, { signal, onLine }) {
  const folder = join(roots.assets, "swift");
  fs.mkdirSync(folder, { recursive: true });
  const reason =
    obstacle() ??
    (freeBytes(folder) < neededFreeBytes ? "making the root needs 6 GiB of free disk for a while" : undefined);
  if (reason) {
    onLine(`skipped: ${reason}`);
    return writeStamp(roots, "swift-root", hostRecipe(), { reason });
  }
  const root = join(folder, `root-${rootRecipe.slice(0, 12)}`);
  const unfinished = join(roots.scratch, `swift-root-${process.pid}`);
  try {
    await mmdebstrap(
      [
        "--variant=apt",
        "--dpkgopt=force-unsafe-io",
        ...["doc", "man", "info", "locale"].map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`),
        `--include=${packages.join(",")}`,
      ],
      { scratch: roots.scratch, suite: suite, target: unfinished, signal, onLine },
    );
    for (const name of emptyArchives) {
      fs.writeFileSync(join(unfinished, staticFolder, `lib${name}.a`), "!<arch>\n");
    }
    for (const name of ["repo", "build"]) fs.mkdirSync(join(unfinished, name));
    removeUnmounted(root);
    fs.renameSync(unfinished, root);
    await writeStamp(roots, "swift-root", hostRecipe(), { root });
  } finally {
    removeUnmounted(unfinished);
  }
}

/**
 * The command line that runs a shell script in the root, with the repository at `/repo` (read-only) and a folder of the
 * cache at `/build`.
 * @param {import("./roots.mjs").Roots} roots
 * @param {string} root
 * @param {string} script
 * @returns {[string, string[]]}
 */
export function inSwiftRoot(roots, root, script) {
  const build = join(roots.assets, "swift/build");
  fs.mkdirSync(build, { recursive: true });
  const enter = `
    mount -t proc proc "$1/proc"
    mount --bind /dev "$1/dev"
    mount --bind "$2" "$1/repo"
    mount -o remount,bind,ro "$1/repo"
    mount --bind "$3" "$1/build"
    exec chroot "$1" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/build LANG=C.UTF-8 /bin/sh -ec "$4"`;
  return ["unshare", ["--mount", "--", "sh", "-ec", enter, "sh", root, roots.repository, build, script]];
}

/** @param {import("./roots.mjs").Roots} roots */
const sourceHash = (roots) => hashOf(rootRecipe, helperSourceHash(roots));

/** @param {import("./roots.mjs").Roots} roots */
export function currentSimulatedHelper(roots) {
  return /** @type {{ helper: string } | undefined} */ (readStamp(roots, "swift-helper", sourceHash(roots)));
}

/**
 * Builds `<assets>/swift/firkin-vz-<hash>`.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeSimulatedHelper(roots, { signal, onLine }) {
  const found = currentSwiftRoot(roots);
  if (!found?.root) return;
  const hash = sourceHash(roots);
  const build = "swift build -j 2 --package-path /repo/helper-swift --scratch-path /build/static --product firkin-vz";
  const script = [build, ...staticOptions].join(" ");
  const [command, args] = inSwiftRoot(roots, found.root, script);
  await run(command, args, { signal, onLine, remedy: "see what the compiler says above" });
  const helper = join(roots.assets, "swift", `firkin-vz-${hash.slice(0, 12)}`);
  await placeAtomically(helper, (partial) => {
    fs.copyFileSync(join(roots.assets, "swift/build/static/debug/firkin-vz"), partial);
    fs.chmodSync(partial, 0o755);
  });
  await writeStamp(roots, "swift-helper", hash, { helper });
}
