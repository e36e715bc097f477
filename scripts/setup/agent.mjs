/** The guest agent: the static program that is PID 1 in every microVM, compiled from `src/guest-agent/`. */
import * as fs from "node:fs";
import { basename, join, relative } from "node:path";
import { run } from "./command.mjs";
import { filesBelow, hashOf, placeAtomically } from "./files.mjs";
import { readStamp, writeStamp } from "./stamps.mjs";

/**
 * @typedef {object} AgentAsset
 * @property {string} agent The executable.
 * @property {string} hash SHA-256 of its sources.
 */

/** @param {import("./roots.mjs").Roots} roots */
export function agentSourceHash(roots) {
  const folder = join(roots.repository, "src/guest-agent");
  const sources = filesBelow([folder], (path) => {
    return (/\.[ch]$/.test(path) || basename(path) === "Makefile") && !relative(folder, path).startsWith("build/");
  });
  return hashOf(...sources.flatMap((path) => [relative(folder, path), fs.readFileSync(path)]));
}

/** @param {import("./roots.mjs").Roots} roots */
export function currentAgent(roots) {
  return /** @type {AgentAsset | undefined} */ (readStamp(roots, "agent", agentSourceHash(roots)));
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeAgent(roots, { signal, onLine }) {
  const hash = agentSourceHash(roots);
  const folder = join(roots.repository, "src/guest-agent");
  await run("make", ["-C", folder, "-j2", "build/firkin-agent"], {
    signal,
    onLine,
    remedy: "see the compiler's words above",
  });
  const agent = join(roots.assets, "agent", `agent-${hash.slice(0, 12)}`);
  await placeAtomically(agent, (partial) => {
    fs.copyFileSync(join(folder, "build/firkin-agent"), partial);
    fs.chmodSync(partial, 0o755);
  });
  await writeStamp(roots, "agent", hash, { agent, hash });
}
