/** All of the set-up: the steps, what they need of each other, and running them. */
import * as fs from "node:fs";
import { join } from "node:path";
import { removeUnmounted } from "./debian.mjs";
import { sweepPartials } from "./files.mjs";
import { runGraph } from "./graph.mjs";
import { takeSetupLock } from "./lock.mjs";
import { NODE_REMEDY, nodeSupported, systemRemedy } from "./platform.mjs";
import { Progress } from "./progress.mjs";
import { storageRoots } from "./roots.mjs";
import { linuxSteps } from "./steps-linux.mjs";
import { macSteps } from "./steps-macos.mjs";

/**
 * @typedef {"programs" | "development" | "all" | "tests"} Scope
 *
 * @typedef {object} SetUpOptions
 * @property {Scope} scope `programs`: what it takes to run dist/; `development`:
 *   with the npm packages for development; `all`: what it takes to run dist/ and microVMs; `tests`: all of that, and
 *   the programs that only tests use.
 * @property {(roots: import("./roots.mjs").Roots, scope: Scope) => readonly import("./graph.mjs").Step[]} [plan]
 */

/**
 * The steps for a system, in an order that respects their needs.
 * @param {import("./roots.mjs").Roots} roots
 * @param {Scope} scope
 * @param {string} [platform] As Node.js names it.
 */
export function planSteps(roots, scope, platform = process.platform) {
  return platform === "darwin" ? macSteps(roots, scope) : linuxSteps(roots, scope);
}

/**
 * Does whatever of the set-up is not done yet, showing progress on standard error; on failure or interruption it says
 * so.
 * @param {SetUpOptions} options
 * @returns {Promise<number>} 0, or the status to exit with
 */
export async function setUp({ scope, plan = planSteps }) {
  const obstacle = nodeSupported() ? systemRemedy() : NODE_REMEDY;
  if (obstacle !== undefined) {
    process.stderr.write(`firkin: this is Node.js ${process.version} on ${process.platform} ${process.arch}\n`);
    process.stderr.write(`  → ${obstacle}\n`);
    return 1;
  }
  const roots = storageRoots();
  const interrupt = new AbortController();
  /** @type {NodeJS.Signals[]} */
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"];
  const onSignal = (/** @type {NodeJS.Signals} */ signal) => interrupt.abort(signal);
  for (const signal of signals) process.on(signal, onSignal);

  const progress = new Progress(roots.logs);
  const startedAt = performance.now();
  let unlock = () => {};
  const beforeWork = async () => {
    process.stderr.write("firkin: setting up what is missing\n");
    const onWait = (/** @type {number} */ holder) =>
      process.stderr.write(`  … waiting for the set-up of process ${holder}\n`);
    unlock = await takeSetupLock(roots.cache, { signal: interrupt.signal, onWait });
    sweepLeftovers(roots);
  };
  try {
    const worked = await runGraph(plan(roots, scope), {
      signal: interrupt.signal,
      observer: progress,
      beforeWork,
    });
    progress.close();
    if (worked > 0)
      process.stderr.write(`firkin: set up in ${((performance.now() - startedAt) / 1000).toFixed(0)} s\n`);
    return 0;
  } catch (error) {
    progress.close();
    if (interrupt.signal.aborted) {
      process.stderr.write("firkin: interrupted; the next start goes on with the steps that are not done\n");
      return interrupt.signal.reason === "SIGINT" ? 130 : 143;
    }
    process.stderr.write("firkin: the set-up has failed; steps that are done stay done\n");
    // The step's own failure has been shown; anything else is a bug of the set-up and wants its stack.
    if (!(error instanceof Error && "remedy" in error)) console.error(error);
    return 1;
  } finally {
    unlock();
    for (const signal of signals) process.off(signal, onSignal);
  }
}

/**
 * {@link setUp} for programs that cannot go on without it.
 * @param {SetUpOptions} options
 */
export async function setUpOrExit(options) {
  const status = await setUp(options);
  if (status !== 0) process.exit(status);
}

/**
 * Removes what interrupted set-ups left. Only with the lock held.
 * @param {import("./roots.mjs").Roots} roots
 */
function sweepLeftovers(roots) {
  if (fs.existsSync(roots.scratch)) {
    for (const name of fs.readdirSync(roots.scratch)) removeUnmounted(join(roots.scratch, name));
  }
  for (const folder of ["", "agent", "kernel", "rootfs", "stamps", "swift"]) sweepPartials(join(roots.assets, folder));
  sweepPartials(roots.downloads);
  sweepPartials(roots.repository);
}
