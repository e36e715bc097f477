/** `firkin doctor`: checks everything that serving needs, and says of each thing that is missing what to do. */

import { storageRoots } from "../setup/roots.mjs";
import { checkHost, checkNode, checkNpm } from "./host.mjs";
import { checkMac } from "./macos.mjs";
import { checkSetUp } from "./setup.mjs";
import { checkTls } from "./tls.mjs";

/**
 * @typedef {object} Finding
 * @property {"ok" | "failed" | "advice" | "info"} level Only `failed` keeps firkin from serving.
 * @property {string} what
 * @property {string} detail
 * @property {string} [remedy] What to do about it; on `failed` and `advice`.
 */

const marks = { ok: "✓", failed: "✗", advice: "!", info: "·" };

/**
 * Prints one line per requirement.
 * @returns {Promise<boolean>} whether all of them are met
 */
export async function doctor() {
  const roots = storageRoots();
  const findings =
    process.platform === "darwin"
      ? [checkNode(), checkNpm(), ...checkMac(roots), ...(await checkSetUp(roots, "arm64")), ...(await checkTls(roots))]
      : [...checkHost(roots), ...(await checkSetUp(roots)), ...(await checkTls(roots))];
  const width = Math.max(...findings.map(({ what }) => what.length));
  for (const { level, what, detail, remedy } of findings) {
    process.stdout.write(`${marks[level]} ${what.padEnd(width)}  ${detail}\n`);
    if (remedy) process.stdout.write(`${" ".repeat(width + 4)}→ ${remedy}\n`);
  }
  const failed = findings.filter(({ level }) => level === "failed").length;
  const verdict =
    failed === 0 ? "everything that serving needs is there" : `${failed} of these must be put right first`;
  process.stdout.write(`\nfirkin doctor: ${verdict}\n`);
  return failed === 0;
}
