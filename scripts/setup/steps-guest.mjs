/** What the set-up does for guests that run on Apple's framework, where no Debian is at hand. */
import { currentAgent } from "./agent.mjs";
import { currentGuestPackages, makeGuestPackages } from "./debian-lock.mjs";
import { makeGuestAgent, makeGuestBaseDisk, makeGuestKernel } from "./guest-files.mjs";
import { currentKernel } from "./kernel.mjs";
import { currentBaseDisk } from "./rootfs.mjs";

export const GUEST = "arm64";

/**
 * @param {import("./roots.mjs").Roots} roots
 * @returns {import("./graph.mjs").Step[]}
 */
export function guestKernelSteps(roots) {
  return [
    {
      name: "guest-packages",
      title: "list of Debian packages for arm64 guests",
      needs: ["npm"],
      isDone: () => currentGuestPackages(roots, GUEST),
      run: (context) => makeGuestPackages(roots, GUEST, context),
    },
    {
      name: "guest-kernel",
      title: "kernel for arm64 guests",
      needs: ["guest-packages"],
      isDone: () => currentKernel(roots, GUEST),
      run: (context) => makeGuestKernel(roots, GUEST, context),
    },
  ];
}

/**
 * @param {import("./roots.mjs").Roots} roots
 * @param {import("./guest-job.mjs").Boot} boot
 * @param {readonly string[]} needs What booting takes.
 * @returns {import("./graph.mjs").Step[]}
 */
export function guestJobSteps(roots, boot, needs) {
  return [
    {
      name: "guest-agent",
      title: "agent for arm64 guests, compiled in one",
      needs: ["guest-kernel", ...needs],
      isDone: () => currentAgent(roots, GUEST),
      run: (context) => makeGuestAgent(roots, GUEST, boot, context),
    },
    {
      // One machine at a time: both jobs download to one folder.
      name: "guest-disk",
      title: "root disk of template base, installed in a guest",
      needs: ["guest-agent"],
      isDone: () => currentBaseDisk(roots, GUEST),
      run: (context) => makeGuestBaseDisk(roots, GUEST, boot, context),
    },
  ];
}
