#!/usr/bin/env node
/**
 * `node scripts/verify/guest-files.mjs` makes on Linux what `npm start` makes on a Mac for guests of the vz engine:
 * kernel, agent and root disk. The steps are the same, but QEMU boots the guest jobs and emulates the processor,
 * which takes a quarter of an hour. What it makes is printed as JSON.
 */
import { currentAgent } from "../setup/agent.mjs";
import { qemuBoot } from "../setup/guest-boot.mjs";
import { currentKernel } from "../setup/kernel.mjs";
import { setUpOrExit } from "../setup/plan.mjs";
import { currentBaseDisk } from "../setup/rootfs.mjs";
import { storageRoots, takeRootFlags } from "../setup/roots.mjs";
import { guestArchitecture, guestJobSteps } from "../setup/steps-guest.mjs";
import { linuxSteps } from "../setup/steps-linux.mjs";

takeRootFlags(process.argv.slice(2));
await setUpOrExit({
  scope: { steps: ["packages", "guest-disk"] },
  plan: (roots, withDev) => [
    ...linuxSteps(roots, withDev),
    ...guestJobSteps(roots, qemuBoot(guestArchitecture), ["test-packages"]),
  ],
});
const roots = storageRoots();
const [kernel, agent, disk] = [currentKernel, currentAgent, currentBaseDisk].map((current) =>
  current(roots, guestArchitecture),
);
console.log(JSON.stringify({ kernel, agent, disk }, null, 2));
