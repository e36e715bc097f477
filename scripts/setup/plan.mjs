/** All of the set-up: the steps, what they need of each other, and running them. */
import * as fs from "node:fs";
import { join } from "node:path";
import { currentAgent, makeAgent } from "./agent.mjs";
import { currentArm64Assets, makeArm64Assets } from "./arm64.mjs";
import { assetIndexCurrent, writeAssetIndex } from "./assets.mjs";
import { buildDist, distCurrent } from "./build.mjs";
import { removeUnmounted } from "./debian.mjs";
import { sweepPartials } from "./files.mjs";
import { runGraph } from "./graph.mjs";
import { currentKernel, makeKernel } from "./kernel.mjs";
import { takeSetupLock } from "./lock.mjs";
import { installNpmPackages, npmPackagesCurrent } from "./npm.mjs";
import {
  browserSettled,
  installBrowser,
  installPackages,
  missingPackages,
  RUNTIME_PACKAGES,
  TEST_PACKAGES,
} from "./packages.mjs";
import { NODE_REMEDY, nodeSupported, SYSTEM_REMEDY, systemSupported } from "./platform.mjs";
import { Progress } from "./progress.mjs";
import { currentBaseDisk, makeBaseDisk } from "./rootfs.mjs";
import { storageRoots } from "./roots.mjs";
import { currentSimulatedHelper, currentSwiftRoot, makeSimulatedHelper, makeSwiftRoot } from "./swift.mjs";
import { currentTestTools, makeTestTools } from "./test-tools.mjs";

/**
 * @typedef {object} SetUpOptions
 * @property {"programs" | "development" | "all" | "tests"} scope `programs`: what it takes to run dist/; `development`:
 *   with the npm packages for development; `all`: what it takes to run dist/ and microVMs; `tests`: all of that, and
 *   the programs that only tests use.
 */

/**
 * The steps in an order that respects their needs.
 * @param {import("./roots.mjs").Roots} roots
 * @param {SetUpOptions["scope"]} scope
 * @returns {import("./graph.mjs").Step[]}
 */
function planSteps(roots, scope) {
  const tests = scope === "tests";
  const withDev = tests || scope === "development";
  const packages = tests ? [...RUNTIME_PACKAGES, ...TEST_PACKAGES] : RUNTIME_PACKAGES;
  /** @type {import("./graph.mjs").Step[]} */
  const programs = [
    {
      name: "packages",
      title: "Debian packages",
      needs: [],
      isDone: () => missingPackages(packages).length === 0,
      run: (context) => installPackages(packages, context),
    },
    {
      name: "npm",
      title: withDev ? "npm packages, with those for development" : "npm packages",
      needs: ["packages"],
      isDone: () => npmPackagesCurrent(roots, withDev),
      run: (context) => installNpmPackages(roots, withDev, context),
    },
    {
      name: "build",
      title: "dist/, compiled from TypeScript",
      needs: ["npm"],
      isDone: () => distCurrent(roots),
      run: (context) => buildDist(roots, context),
    },
  ];
  /** @type {import("./graph.mjs").Step[]} */
  const assets = [
    {
      name: "base-disk",
      title: "root disk of template base",
      needs: ["packages"],
      isDone: () => currentBaseDisk(roots),
      run: (context) => makeBaseDisk(roots, context),
    },
    {
      name: "kernel",
      title: "guest kernel",
      needs: ["packages"],
      isDone: () => currentKernel(roots),
      run: (context) => makeKernel(roots, context),
    },
    {
      name: "agent",
      title: "guest agent",
      needs: ["packages"],
      isDone: () => currentAgent(roots),
      run: (context) => makeAgent(roots, context),
    },
    {
      name: "assets",
      title: "initramfs and index of the guest's files",
      needs: ["base-disk", "kernel", "agent"],
      isDone: () => assetIndexCurrent(roots),
      run: () => writeAssetIndex(roots),
    },
  ];
  /** @type {import("./graph.mjs").Step[]} */
  const forTests = [
    {
      name: "test-tools",
      title: "programs for tests",
      needs: ["packages"],
      isDone: () => currentTestTools(roots),
      run: (context) => makeTestTools(roots, context),
    },
    {
      // Beside the root disk, which takes longer.
      name: "browser",
      title: "browser for tests",
      needs: ["packages", "test-tools"],
      isDone: () => browserSettled(),
      run: installBrowser,
    },
    {
      name: "arm64",
      title: "kernel and initramfs for arm64 guests",
      needs: ["packages"],
      isDone: () => currentArm64Assets(roots),
      run: (context) => makeArm64Assets(roots, context),
    },
    {
      name: "swift-root",
      title: "Swift, in a Debian root of its own",
      needs: ["packages"],
      isDone: () => currentSwiftRoot(roots),
      run: (context) => makeSwiftRoot(roots, context),
    },
    {
      name: "swift-helper",
      title: "firkin-vz on the simulated framework",
      needs: ["swift-root"],
      isDone: () => currentSimulatedHelper(roots) ?? !currentSwiftRoot(roots)?.root,
      run: (context) => makeSimulatedHelper(roots, context),
    },
  ];
  if (scope === "programs" || scope === "development") return programs;
  return tests ? [...programs, ...assets, ...forTests] : [...programs, ...assets];
}

/**
 * Does whatever of the set-up is not done yet, showing progress on standard error; on failure or interruption it says
 * so.
 * @param {SetUpOptions} options
 * @returns {Promise<number>} 0, or the status to exit with
 */
export async function setUp({ scope }) {
  if (!nodeSupported() || !systemSupported()) {
    process.stderr.write(`firkin: this is Node.js ${process.version} on ${process.platform} ${process.arch}\n`);
    process.stderr.write(`  → ${nodeSupported() ? SYSTEM_REMEDY : NODE_REMEDY}\n`);
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
    const worked = await runGraph(planSteps(roots, scope), {
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
  for (const folder of ["", "agent", "arm64", "kernel", "rootfs", "stamps", "swift"])
    sweepPartials(join(roots.assets, folder));
  sweepPartials(roots.repository);
}
