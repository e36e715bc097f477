/** The steps on a Mac, which has no Docker, and no other Linux than the one that guest jobs boot. */
import { assetIndexCurrent, writeAssetIndex } from "./assets.mjs";
import { vzBoot } from "./guest-boot.mjs";
import {
  commandLineToolsThere,
  currentHelper,
  helperPath,
  makeHelper,
  refuseWithoutCommandLineTools,
} from "./helper.mjs";
import { guestArchitecture, guestJobSteps, guestKernelSteps } from "./steps-guest.mjs";
import { programSteps } from "./steps-programs.mjs";

/**
 * The steps in an order that respects their needs. None is for tests alone.
 * @param {import("./roots.mjs").Roots} roots
 * @param {boolean} withDev With the npm packages for development.
 * @returns {import("./graph.mjs").Step[]}
 */
export function macSteps(roots, withDev) {
  return [
    {
      name: "command-line-tools",
      title: "Apple's command line tools",
      needs: [],
      isDone: commandLineToolsThere,
      run: refuseWithoutCommandLineTools,
    },
    ...programSteps(roots, withDev, { needs: ["command-line-tools"] }),
    ...guestKernelSteps(roots),
    {
      name: "helper",
      title: "firkin-vz, built and signed",
      needs: ["command-line-tools"],
      isDone: () => currentHelper(roots),
      run: (context) => makeHelper(roots, context),
    },
    ...guestJobSteps(roots, vzBoot(roots, helperPath(roots)), ["helper", "build"]),
    {
      name: "assets",
      title: "initramfs and index of the guest's files",
      needs: ["guest-disk"],
      isDone: () => assetIndexCurrent(roots, guestArchitecture),
      run: () => writeAssetIndex(roots, guestArchitecture),
    },
  ];
}
