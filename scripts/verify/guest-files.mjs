#!/usr/bin/env node
/**
 * `node scripts/verify/guest-files.mjs`: makes on Linux what `npm start` makes on a Mac for guests of the vz engine: kernel, agent and
 * root disk. By the same steps, only that QEMU boots the guest jobs and emulates the processor, which takes a quarter of an hour.
 */
import { currentAgent } from "../setup/agent.mjs";
import { qemuBoot } from "../setup/guest-boot.mjs";
import { currentKernel } from "../setup/kernel.mjs";
import { setUpOrExit } from "../setup/plan.mjs";
import { currentBaseDisk } from "../setup/rootfs.mjs";
import { storageRoots, takeRootFlags } from "../setup/roots.mjs";
import { GUEST, guestJobSteps, guestKernelSteps } from "../setup/steps-guest.mjs";
import { linuxSteps } from "../setup/steps-linux.mjs";

takeRootFlags(process.argv.slice(2));
await setUpOrExit({
  scope: "tests",
  plan: (roots, scope) => {
    const own = linuxSteps(roots, scope).filter(({ name }) => name === "packages" || name === "npm");
    return [...own, ...guestKernelSteps(roots), ...guestJobSteps(roots, qemuBoot(GUEST), ["packages"])];
  },
});
const roots = storageRoots();
const [kernel, agent, disk] = [currentKernel, currentAgent, currentBaseDisk].map((current) => current(roots, GUEST));
console.log(JSON.stringify({ kernel, agent, disk }, null, 2));
