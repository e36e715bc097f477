/** The steps that make the files of arm64 guests, which run on Apple's framework, without a Debian on the host. */
import { currentAgent } from "./agent.mjs";
import { currentGuestPackages, makeGuestPackages } from "./debian-lock.mjs";
import { makeGuestAgent, makeGuestBaseDisk, makeGuestKernel } from "./guest-files.mjs";
import { currentKernel } from "./kernel.mjs";
import { currentBaseDisk } from "./rootfs.mjs";

export const guestArchitecture = "arm64";

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {readonly string[]} needs The steps that bring what unpacks packages, where the system lacks it.
 * @returns {import("./graph.mjs").Step[]}
 */
export function guestKernelSteps(roots, needs = []) {
  return [
    {
      name: "guest-packages",
      title: "list of Debian packages for arm64 guests",
      needs: ["npm"],
      isDone: () => currentGuestPackages(roots, guestArchitecture),
      run: (context) => makeGuestPackages(roots, guestArchitecture, context),
    },
    {
      name: "guest-kernel",
      title: "kernel for arm64 guests",
      needs: ["guest-packages", ...needs],
      isDone: () => currentKernel(roots, guestArchitecture),
      run: (context) => makeGuestKernel(roots, guestArchitecture, context),
    },
  ];
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./guest-job.mjs").Boot} boot
 * @param {readonly string[]} needs The steps that bring what booting takes.
 * @returns {import("./graph.mjs").Step[]}
 */
export function guestJobSteps(roots, boot, needs) {
  return [
    {
      name: "guest-agent",
      title: "agent for arm64 guests, compiled in one",
      needs: ["guest-kernel", ...needs],
      isDone: () => currentAgent(roots, guestArchitecture),
      run: (context) => makeGuestAgent(roots, guestArchitecture, boot, context),
    },
    {
      // One machine at a time: both jobs download to one folder.
      name: "guest-disk",
      title: "root disk of template base, installed in a guest",
      needs: ["guest-agent"],
      isDone: () => currentBaseDisk(roots, guestArchitecture),
      run: (context) => makeGuestBaseDisk(roots, guestArchitecture, boot, context),
    },
  ];
}
