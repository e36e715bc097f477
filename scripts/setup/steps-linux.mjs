/** The steps on Linux, those for tests alone included. */
import { crossCompileAgent, currentAgent, makeAgent } from "./agent.mjs";
import { assetIndexCurrent, writeAssetIndex } from "./assets.mjs";
import {
  currentCodeInterpreterDisk,
  currentDebianOfFull,
  currentWheels,
  makeCodeInterpreterDisk,
  makeDebianOfFull,
  makeWheels,
} from "./code-interpreter.mjs";
import { currentGuestPrograms, makeGuestPrograms } from "./guest-programs.mjs";
import { currentKernel, makeKernel } from "./kernel.mjs";
import {
  browserPackages,
  compilerPackages,
  installPackages,
  interpreterPackages,
  missingPackages,
  namePackages,
  packagesSettled,
  runtimePackages,
  testPackages,
} from "./packages.mjs";
import { currentRealJob, makeRealJob } from "./real-job.mjs";
import { currentBaseDisk, makeBaseDisk } from "./rootfs.mjs";
import { currentRunsc, makeRunsc } from "./runsc.mjs";
import { guestKernelSteps } from "./steps-guest.mjs";
import { programSteps } from "./steps-programs.mjs";
import { currentSimulatedHelper, currentSwiftRoot, makeSimulatedHelper, makeSwiftRoot } from "./swift.mjs";
import { currentTestImages, makeTestImages } from "./test-images.mjs";
import { currentTestTools, makeTestTools } from "./test-tools.mjs";

/** @typedef {import("./graph.mjs").Step} Step */

/**
 * The steps in an order that respects their needs. Steps that call apt go one after the other.
 * @param {import("./roots.mjs").Roots} roots
 * @param {boolean} withDev With the npm packages for development.
 * @returns {Step[]}
 */
export function linuxSteps(roots, withDev) {
  return [
    packageStep("packages", "Debian packages", runtimePackages),
    {
      ...packageStep("names", "names of services in sandboxes", namePackages),
      after: ["packages"],
      isDone: () => packagesSettled(namePackages),
    },
    { ...packageStep("compiler", "C compiler", compilerPackages), after: ["packages", "names"] },
    {
      ...packageStep("test-packages", "Debian packages for tests", testPackages),
      after: ["packages", "names", "compiler"],
    },
    ...programSteps(roots, withDev, { needs: [], after: ["packages"] }),
    ...assetSteps(roots),
    runscStep(roots),
    ...testSteps(roots),
  ];
}

/**
 * @param {string} name
 * @param {string} title
 * @param {readonly import("./packages.mjs").HostPackage[]} packages
 * @returns {Step}
 */
function packageStep(name, title, packages) {
  return {
    name,
    title,
    needs: [],
    isDone: () => missingPackages(packages).length === 0,
    run: (context) => installPackages(packages, context),
  };
}

/**
 * The steps that make what microVMs boot.
 * @param {import("./roots.mjs").Roots} roots
 * @returns {Step[]}
 */
function assetSteps(roots) {
  return [
    {
      name: "kernel",
      title: "guest kernel",
      needs: ["packages"],
      isDone: () => currentKernel(roots),
      run: (context) => makeKernel(roots, context),
    },
    {
      name: "base-disk",
      title: "root disk of template base",
      needs: ["packages", "kernel"],
      isDone: () => currentBaseDisk(roots),
      run: (context) => makeBaseDisk(roots, context),
    },
    {
      name: "agent",
      title: "guest agent",
      needs: ["packages"],
      isDone: () => currentAgent(roots),
      run: (context) => makeAgent(roots, context),
    },
    {
      name: "guest-programs",
      title: "shell for images that have none",
      needs: ["packages"],
      isDone: () => currentGuestPrograms(roots),
      run: (context) => makeGuestPrograms(roots, context),
    },
    {
      name: "assets",
      title: "initramfs and index of the guest's files",
      needs: ["base-disk", "kernel", "agent", "guest-programs"],
      isDone: () => assetIndexCurrent(roots),
      run: () => writeAssetIndex(roots),
    },
    ...codeInterpreterSteps(roots, "lean", "base-disk"),
    {
      name: "r-java-disk",
      title: "root disk with R and Java",
      needs: ["packages", "kernel"],
      // Both call apt.
      after: ["base-disk"],
      isDone: () => currentDebianOfFull(roots),
      run: (context) => makeDebianOfFull(roots, context),
    },
    ...codeInterpreterSteps(roots, "full", "r-java-disk"),
  ];
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./code-interpreter.mjs").Variant} variant
 * @param {string} debian The step that makes the disk which the variant's begins with.
 * @returns {Step[]}
 */
function codeInterpreterSteps(roots, variant, debian) {
  return [
    {
      name: `code-interpreter-wheels-${variant}`,
      title: `Python packages of template code-interpreter-v1, ${variant}`,
      needs: ["packages"],
      isDone: () => currentWheels(roots, variant),
      run: (context) => makeWheels(roots, variant, context),
    },
    {
      name: `code-interpreter-disk-${variant}`,
      title: `root disk of template code-interpreter-v1, ${variant}`,
      needs: ["npm", debian, `code-interpreter-wheels-${variant}`],
      isDone: () => currentCodeInterpreterDisk(roots, variant),
      run: (context) => makeCodeInterpreterDisk(roots, variant, context),
    },
  ];
}

/**
 * The engine gvisor's own program.
 * @param {import("./roots.mjs").Roots} roots
 * @returns {Step}
 */
function runscStep(roots) {
  return {
    name: "runsc",
    title: "runsc of gVisor, compiled from Go modules",
    needs: ["packages"],
    // Both take all processors, and everything else waits for the disk.
    after: ["base-disk"],
    isDone: () => currentRunsc(roots),
    run: (context) => makeRunsc(roots, context),
  };
}

/**
 * The steps for tests alone.
 * @param {import("./roots.mjs").Roots} roots
 * @returns {Step[]}
 */
function testSteps(roots) {
  return [
    {
      name: "test-tools",
      title: "programs for tests",
      needs: [],
      after: ["packages", "test-packages"],
      isDone: () => currentTestTools(roots),
      run: (context) => makeTestTools(roots, context),
    },
    {
      name: "test-images",
      title: "images for tests",
      needs: ["packages"],
      isDone: () => currentTestImages(roots),
      run: (context) => makeTestImages(roots, context),
    },
    {
      name: "real-job",
      title: "a real job for tests",
      needs: ["packages"],
      isDone: () => currentRealJob(roots),
      run: (context) => makeRealJob(roots, context),
    },
    {
      // The browser is installed while the root disk is made, which takes longer.
      name: "browser",
      title: "browser for tests",
      needs: [],
      after: ["packages", "names", "compiler", "test-packages", "test-tools"],
      isDone: () => packagesSettled(browserPackages),
      run: (context) => installPackages(browserPackages, context),
    },
    {
      ...packageStep("r-java", "R and Java for tests", interpreterPackages),
      after: ["packages", "names", "compiler", "test-packages", "test-tools", "browser"],
    },
    ...guestKernelSteps(roots, ["test-packages"]),
    {
      name: "arm64-agent",
      title: "agent for arm64 guests, cross-compiled",
      needs: ["test-packages", "compiler"],
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
}
