/** The systems that firkin runs on. An older Node.js can read this file, too, and say that it is too old. */
import { release } from "node:os";

const neededNode = [20, 18];
/** The version of Darwin in macOS 14. */
const neededDarwin = [23, 0];

/** @typedef {{ platform: string, arch: string, release: string }} System As Node.js names them. */

/** @type {System} */
const thisSystem = { platform: process.platform, arch: process.arch, release: release() };

export const nodeRemedy = `install Node.js ${neededNode.join(".")} or newer`;

/**
 * The remedy for a system that no engine runs on; undefined for a supported system.
 * @param {System} [system]
 */
export function systemRemedy({ platform, arch, release } = thisSystem) {
  if (platform === "linux" && arch === "x64") return undefined;
  if (platform !== "darwin") {
    return "the qemu engine needs Linux on x86-64 (Debian 12 or Ubuntu 24.04), the vz engine macOS on Apple silicon";
  }
  if (arch !== "arm64") return "the vz engine needs Apple silicon, and a Node.js built for it (node -p process.arch)";
  return atLeast(release, neededDarwin) ? undefined : "update to macOS 14 or newer: older ones cannot save machines";
}

export function nodeSupported() {
  return atLeast(process.versions.node, neededNode);
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
