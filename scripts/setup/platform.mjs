/** What firkin runs on. Written so that an older Node.js can still read it, and say so. */

const NEEDED_NODE = [20, 18];

export const SYSTEM_REMEDY = "the qemu engine needs Linux on x86-64 (Debian 12 or Ubuntu 24.04)";
export const NODE_REMEDY = `install Node.js ${NEEDED_NODE.join(".")} or newer`;

export function systemSupported() {
  return process.platform === "linux" && process.arch === "x64";
}

export function nodeSupported() {
  return atLeast(process.versions.node, NEEDED_NODE);
}

/**
 * @param {string} version
 * @param {readonly number[]} wanted Major and minor.
 */
export function atLeast(version, wanted) {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  const [wantedMajor = 0, wantedMinor = 0] = wanted;
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}
