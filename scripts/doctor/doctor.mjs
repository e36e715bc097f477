/**
 * `npx firkin doctor` checks every requirement and says what to do about each one that is not met. The files here may
 * call the set-up and system programs; they change nothing.
 */
import { storageRoots } from "../setup/roots.mjs";
import { checkGvisor, checkHaltPolling } from "./gvisor.mjs";
import { checkHost, checkNode, checkNpm } from "./host.mjs";
import { checkMac } from "./macos.mjs";
import { checkLocalNames } from "./names.mjs";
import { checkSetUp } from "./setup.mjs";
import { checkTls } from "./tls.mjs";
import { checkWalls } from "./walls.mjs";

/**
 * @typedef {object} Finding
 * @property {"ok" | "failed" | "advice" | "info"} level Only a `failed` requirement keeps firkin from serving.
 * @property {string} what
 * @property {string} detail
 * @property {string} [remedy] An instruction, with `failed` and `advice`.
 */

const marks = { ok: "✓", failed: "✗", advice: "!", info: "·" };

/**
 * Prints one line for each requirement.
 * @returns {Promise<boolean>} whether all requirements are met
 */
export async function doctor() {
  const roots = storageRoots();
  const findings =
    process.platform === "darwin"
      ? [checkNode(), checkNpm(), ...checkMac(roots), ...(await checkSetUp(roots, "arm64"))]
      : [
          ...checkHost(roots),
          ...(await checkSetUp(roots)),
          ...checkWalls(roots),
          checkGvisor(roots),
          ...checkHaltPolling(),
        ];
  findings.push(await checkLocalNames(), ...(await checkTls(roots)));
  const width = Math.max(...findings.map(({ what }) => what.length));
  for (const { level, what, detail, remedy } of findings) {
    process.stdout.write(`${marks[level]} ${what.padEnd(width)}  ${detail}\n`);
    if (remedy) process.stdout.write(`${" ".repeat(width + 4)}→ ${remedy}\n`);
  }
  const failed = findings.filter(({ level }) => level === "failed").length;
  const verdict = failed === 0 ? "all requirements are met" : `${failed} of these requirements are not met`;
  process.stdout.write(`\nfirkin doctor: ${verdict}\n`);
  return failed === 0;
}
