/** The Debian (or Ubuntu) packages that firkin needs on the host, and installing those that are missing. */
import { spawnSync } from "node:child_process";
import { run } from "./command.mjs";
import { SetupError } from "./setup-error.mjs";

/**
 * @typedef {object} HostPackage
 * @property {string} name
 * @property {string} why
 */

/** @type {readonly HostPackage[]} */
export const compilerPackages = [
  { name: "gcc", why: "compiles the guest agent" },
  { name: "libc6-dev", why: "compiles the guest agent" },
  { name: "make", why: "compiles the guest agent and better-sqlite3" },
];

/** @type {readonly HostPackage[]} */
export const runtimePackages = [
  ...compilerPackages,
  { name: "qemu-system-x86", why: "runs the microVMs" },
  { name: "qemu-utils", why: "makes their disk layers (qemu-img)" },
  { name: "nftables", why: "drops what a network process that was taken over may never send" },
  { name: "passt", why: "gives them a network without root" },
  { name: "mmdebstrap", why: "builds the base root disk and fetches the guest kernel" },
  { name: "debian-archive-keyring", why: "proves that the guest's packages are Debian's" },
  { name: "e2fsprogs", why: "writes the root disk's file system (mke2fs)" },
  { name: "g++", why: "compiles better-sqlite3 where no ready-made build fits" },
  { name: "python3", why: "compiles better-sqlite3 where no ready-made build fits (node-gyp)" },
  { name: "ca-certificates", why: "lets npm and curl check the servers that they talk to" },
];

/** @type {readonly HostPackage[]} */
export const testPackages = [
  { name: "gcc-aarch64-linux-gnu", why: "compiles the guest agent for the vz engine's guests" },
  { name: "libc6-dev-arm64-cross", why: "compiles the guest agent for the vz engine's guests" },
  { name: "libarchive-tools", why: "unpacks packages for them, as a Mac's own tar does (bsdtar)" },
  { name: "qemu-system-arm", why: "boots such a guest" },
  { name: "curl", why: "is one of the clients that tests use" },
  { name: "git", why: "the format check skips what git ignores" },
  { name: "iproute2", why: "makes networks for tests" },
  { name: "procps", why: "finds and ends processes of simulated guests" },
  { name: "python3-venv", why: "runs the tests with E2B's Python SDK" },
];

/** @type {readonly HostPackage[]} */
export const interpreterPackages = [
  { name: "openjdk-17-jdk-headless", why: "runs the tests of the code interpreter's Java" },
  { name: "r-base-core", why: "runs the tests of the code interpreter's R" },
  { name: "r-cran-base64enc", why: "runs the tests of the code interpreter's R" },
  { name: "r-cran-repr", why: "runs the tests of the code interpreter's R" },
];

/**
 * Where apt does not have the browser, tests of the console are skipped by name.
 * @type {readonly HostPackage[]}
 */
export const browserPackages = [{ name: "chromium-headless-shell", why: "shows the console to the tests" }];

/**
 * Without it firkin serves all the same: browsers and curl resolve the names by themselves.
 * @type {readonly HostPackage[]}
 */
export const namePackages = [
  { name: "libnss-myhostname", why: "resolves *.localhost, the names of services in sandboxes, for every program" },
];

/**
 * The packages that are not installed.
 * @param {readonly HostPackage[]} packages
 * @returns {HostPackage[]}
 */
export function missingPackages(packages) {
  const names = packages.map(({ name }) => name);
  // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query fills these in.
  const query = spawnSync("dpkg-query", ["--show", "--showformat", "${Package} ${db:Status-Status}\n", ...names], {
    encoding: "utf8",
  });
  if (query.error) {
    throw new SetupError(
      "dpkg-query is missing, so this is not Debian or Ubuntu",
      `install these with your system's package manager: ${names.join(", ")}`,
    );
  }
  const installed = new Set(
    query.stdout
      .split("\n")
      .filter((line) => line.endsWith(" installed"))
      .map((line) => line.split(" ")[0]),
  );
  return packages.filter(({ name }) => !installed.has(name));
}

/**
 * The one command that installs the packages, for a user who must run it as root.
 * @param {readonly HostPackage[]} packages
 */
export function installCommand(packages) {
  const names = packages.map(({ name }) => name).join(" ");
  return `sudo sh -c 'apt-get update && apt-get install -y --no-install-recommends ${names}'`;
}

/**
 * @param {readonly HostPackage[]} packages
 * @param {import("./graph.mjs").StepContext} context
 */
export async function installPackages(packages, { signal, onLine }) {
  const missing = missingPackages(packages);
  const remedy = `run this, then start again:\n      ${installCommand(missing)}`;
  if (process.getuid?.() !== 0) {
    throw new SetupError(`these packages are missing, and only root can install them:\n${describe(missing)}`, remedy);
  }
  const options = { env: { DEBIAN_FRONTEND: "noninteractive" }, signal, onLine, remedy };
  const install = [
    "install",
    "-y",
    "--no-install-recommends",
    "-o",
    "DPkg::Lock::Timeout=300",
    "-o",
    "Dpkg::Use-Pty=0",
  ];
  const names = missing.map(({ name }) => name);
  try {
    await run("apt-get", [...install, ...names], options);
  } catch (error) {
    signal.throwIfAborted();
    // There are no package lists yet, or the mirror has newer packages than the lists. An update mends both.
    onLine(error instanceof Error ? error.message : String(error));
    await run("apt-get", ["update", "-o", "DPkg::Lock::Timeout=300"], options);
    await run("apt-get", [...install, ...names], options);
  }
}

/**
 * Whether packages that nothing depends on are installed, or cannot be installed here.
 * @param {readonly HostPackage[]} packages
 */
export function packagesSettled(packages) {
  if (missingPackages(packages).length === 0 || process.getuid?.() !== 0) return true;
  const names = packages.map(({ name }) => name);
  return spawnSync("apt-cache", ["show", "--quiet=2", ...names]).status !== 0;
}

/** @param {readonly HostPackage[]} packages */
function describe(packages) {
  const width = Math.max(...packages.map(({ name }) => name.length));
  return packages.map(({ name, why }) => `      ${name.padEnd(width)}  ${why}`).join("\n");
}
