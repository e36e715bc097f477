/** The set-up as a whole: which steps a scope takes, and running them under one lock with progress on the screen. */
import * as fs from "node:fs";
import { join } from "node:path";
import { chosenVariant } from "./code-interpreter.mjs";
import { removeUnmounted } from "./debian.mjs";
import { sweepPartials } from "./files.mjs";
import { runGraph } from "./graph.mjs";
import { takeSetupLock } from "./lock.mjs";
import { nodeRemedy, nodeSupported, systemRemedy } from "./platform.mjs";
import { Progress } from "./progress.mjs";
import { storageRoots } from "./roots.mjs";
import { linuxSteps } from "./steps-linux.mjs";
import { macSteps } from "./steps-macos.mjs";

/**
 * @typedef {import("./roots.mjs").Roots} Roots
 * @typedef {import("./graph.mjs").Step} Step
 *
 * @typedef {object} Scope
 * @property {readonly string[]} steps The steps that are wanted, by name. What they need comes with them; a step that
 *   this system does not have is left out.
 * @property {boolean} [withDev] Also the npm packages for development.
 *
 * @typedef {object} SetUpOptions
 * @property {keyof typeof scopes | Scope} scope
 * @property {(roots: Roots, withDev: boolean) => readonly Step[]} [plan] All steps of this system.
 */

/**
 * The scopes by name: what it takes to run dist/; to run it and microVMs; to run it with the packages for
 * development; and what bench, load and soak take. `gvisor` is `machines` for a daemon that may run that engine.
 * @satisfies {Readonly<Record<string, Scope>>}
 */
export const scopes = {
  programs: { steps: ["packages", "build"] },
  machines: { steps: ["packages", "names", "build", "assets"] },
  gvisor: { steps: ["packages", "names", "build", "assets", "runsc"] },
  development: { steps: ["packages", "build"], withDev: true },
  /** The disk of template code-interpreter-v1, besides what every daemon needs. */
  "code-interpreter-lean": { steps: ["packages", "names", "build", "assets", "code-interpreter-disk-lean"] },
  "code-interpreter-full": { steps: ["packages", "names", "build", "assets", "code-interpreter-disk-full"] },
  bench: { steps: ["packages", "names", "build", "assets", "runsc"], withDev: true },
};

/**
 * The scope of serving: that of the machines, and the disk of template code-interpreter-v1 on hosts that have one, so
 * that it is renewed with the disk of base.
 * @param {"machines" | "gvisor"} machines
 * @param {Roots} [roots]
 * @returns {Scope}
 */
export function servingScope(machines, roots = storageRoots()) {
  const { steps } = scopes[machines];
  const variant = chosenVariant(roots);
  return { steps: variant === undefined ? steps : [...steps, `code-interpreter-disk-${variant}`] };
}

/**
 * All steps for a system, in an order that respects their needs.
 * @param {Roots} roots
 * @param {boolean} withDev
 * @param {string} [platform] As Node.js names it.
 * @returns {readonly Step[]}
 */
export function planSteps(roots, withDev, platform = process.platform) {
  return platform === "darwin" ? macSteps(roots, withDev) : linuxSteps(roots, withDev);
}

/**
 * The named steps and all that they need, in the order of `steps`.
 * @param {readonly Step[]} steps
 * @param {readonly string[]} names
 */
export function selectSteps(steps, names) {
  const wanted = new Set(names);
  // A step stands after what it needs, so one pass from the end finds everything.
  for (const { name, needs } of [...steps].reverse()) {
    if (wanted.has(name)) for (const need of needs) wanted.add(need);
  }
  return steps.filter(({ name }) => wanted.has(name));
}

/**
 * Runs every step of the scope that is not done yet and shows progress on standard error. A failure or an interruption
 * is shown there, too.
 * @param {SetUpOptions} options
 * @returns {Promise<number>} 0, or the status to exit with
 */
export async function setUp({ scope, plan = planSteps }) {
  const obstacle = nodeSupported() ? systemRemedy() : nodeRemedy;
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
    /** @type {Scope} */
    const { steps: names, withDev = false } = typeof scope === "string" ? scopes[scope] : scope;
    const steps = selectSteps(plan(roots, withDev), names);
    const worked = await runGraph(steps, {
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
      process.stderr.write("firkin: the set-up was interrupted; the next start goes on where it stopped\n");
      return interrupt.signal.reason === "SIGINT" ? 130 : 143;
    }
    process.stderr.write("firkin: the set-up has failed; steps that are done stay done\n");
    // The step's own failure has been shown. Any other error is a bug of the set-up, whose stack is needed.
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
  for (const folder of ["", "agent", "kernel", "programs", "rootfs", "stamps", "swift"])
    sweepPartials(join(roots.assets, folder));
  sweepPartials(roots.downloads);
  sweepPartials(roots.repository);
}
