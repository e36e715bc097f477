/** The guest agent: the static program that is PID 1 in every microVM, compiled from `src/guest-agent/`. */
import * as fs from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { run } from "./command.mjs";
import { filesBelow, hashOf, placeAtomically } from "./files.mjs";
import { readStamp, stampName, writeStamp } from "./stamps.mjs";

const compilerRemedy = "see what the compiler says above";

/**
 * @typedef {import("./kernel.mjs").Architecture} Architecture
 *
 * @typedef {object} AgentAsset
 * @property {string} agent The executable.
 * @property {string} hash SHA-256 of its sources.
 */

/** @param {import("./roots.mjs").Roots} roots */
const folderOf = (roots) => join(roots.repository, "src/guest-agent");

/**
 * The agent's sources: path below its folder → absolute path.
 * @param {import("./roots.mjs").Roots} roots
 * @returns {Record<string, string>}
 */
export function agentSources(roots) {
  const folder = folderOf(roots);
  const paths = filesBelow([folder], (path) => {
    return (/\.[ch]$/.test(path) || basename(path) === "Makefile") && !relative(folder, path).startsWith("build/");
  });
  return Object.fromEntries(paths.map((path) => [relative(folder, path), path]));
}

/** @param {import("./roots.mjs").Roots} roots */
function sourceHash(roots) {
  return hashOf(...Object.entries(agentSources(roots)).flatMap(([name, path]) => [name, fs.readFileSync(path)]));
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} [architecture]
 */
export function currentAgent(roots, architecture = "amd64") {
  return /** @type {AgentAsset | undefined} */ (readStamp(roots, stampName("agent", architecture), sourceHash(roots)));
}

/**
 * Compiles the agent for this host.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function makeAgent(roots, { signal, onLine }) {
  await run("make", ["-C", folderOf(roots), "-j2", "build/firkin-agent"], { signal, onLine, remedy: compilerRemedy });
  await keepAgent(roots, "amd64", join(folderOf(roots), "build/firkin-agent"));
}

/**
 * Compiles the agent for arm64 with Debian's cross compiler, from a copy of the sources, because the agent of this
 * host has its objects beside them.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./graph.mjs").StepContext} context
 */
export async function crossCompileAgent(roots, { signal, onLine }) {
  fs.mkdirSync(roots.scratch, { recursive: true });
  const scratch = fs.mkdtempSync(join(roots.scratch, "arm64-agent-"));
  try {
    for (const [name, path] of Object.entries(agentSources(roots))) {
      fs.mkdirSync(dirname(join(scratch, name)), { recursive: true });
      fs.copyFileSync(path, join(scratch, name));
    }
    const make = ["-C", scratch, "-j2", "CC=aarch64-linux-gnu-gcc", "build/firkin-agent"];
    await run("make", make, { signal, onLine, remedy: compilerRemedy });
    await keepAgent(roots, "arm64", join(scratch, "build/firkin-agent"));
  } finally {
    fs.rmSync(scratch, { recursive: true, force: true });
  }
}

/**
 * Keeps an executable that was compiled from the present sources in the assets.
 * @param {import("./roots.mjs").Roots} roots
 * @param {Architecture} architecture
 * @param {string} executable
 */
export async function keepAgent(roots, architecture, executable) {
  const hash = sourceHash(roots);
  const agent = join(roots.assets, "agent", `${stampName("agent", architecture)}-${hash.slice(0, 12)}`);
  await placeAtomically(agent, (partial) => {
    fs.copyFileSync(executable, partial);
    fs.chmodSync(partial, 0o755);
  });
  await writeStamp(roots, stampName("agent", architecture), hash, { agent, hash });
}
