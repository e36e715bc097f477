/** What the set-up does on Linux. */
import { crossCompileAgent, currentAgent, makeAgent } from "./agent.mjs";
import { assetIndexCurrent, writeAssetIndex } from "./assets.mjs";
import { currentKernel, makeKernel } from "./kernel.mjs";
import {
  browserSettled,
  installBrowser,
  installPackages,
  missingPackages,
  RUNTIME_PACKAGES,
  TEST_PACKAGES,
} from "./packages.mjs";
import { currentBaseDisk, makeBaseDisk } from "./rootfs.mjs";
import { guestKernelSteps } from "./steps-guest.mjs";
import { programSteps } from "./steps-programs.mjs";
import { currentSimulatedHelper, currentSwiftRoot, makeSimulatedHelper, makeSwiftRoot } from "./swift.mjs";
import { currentTestTools, makeTestTools } from "./test-tools.mjs";

/**
 * The steps in an order that respects their needs.
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./plan.mjs").Scope} scope
 * @returns {import("./graph.mjs").Step[]}
 */
export function linuxSteps(roots, scope) {
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
    ...programSteps(roots, withDev, "packages"),
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
    ...guestKernelSteps(roots),
    {
      name: "arm64-agent",
      title: "agent for arm64 guests, cross-compiled",
      needs: ["packages"],
      isDone: () => currentAgent(roots, "arm64"),
      run: (context) => crossCompileAgent(roots, context),
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
