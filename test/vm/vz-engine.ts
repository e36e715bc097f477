/**
 * The vz engine as the conformance suite needs it: on a simulated Mac with settings of its own, or on the Mac that
 * `scripts/verify/verify-macos` runs on.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pino } from "pino";
import { z } from "zod";
import { VzDriver, type VzDriverOptions } from "../../src/machine/vz/driver.ts";
import type { ConformanceEngine } from "../machine/conformance.ts";
import {
  missingForSimulation,
  type SimulatedFramework,
  type SimulatedSettings,
  simulateFramework,
} from "../support/fakes/simulated-framework.ts";

const assetsSchema = z.object({ kernel: z.string(), initramfs: z.string(), baseDisk: z.string() });

/** The signed helper and the guest's files of a real Mac; undefined anywhere else. */
export const realMac = readRealMac();

function readRealMac() {
  const { FIRKIN_VZ_HELPER: helper, FIRKIN_VZ_ASSETS: assets } = process.env;
  if (helper === undefined || assets === undefined) return undefined;
  return { helper, ...assetsSchema.parse(JSON.parse(readFileSync(assets, "utf8"))) };
}

export const quiet = pino({ level: "silent" });

/** Options of a driver whose folders are below `root`. */
export function optionsIn(
  root: string,
  { helper, kernel, initramfs, baseDisk }: Pick<SimulatedFramework, "helper" | "kernel" | "initramfs" | "baseDisk">,
): Omit<VzDriverOptions, "log"> {
  const guest = { kernel, initramfs, baseDisk };
  return { machinesFolder: join(root, "m"), cacheFolder: join(root, "cache"), helper, ...guest };
}

/**
 * The engine on a simulated Mac.
 * @param startsLocked the driver is opened under a locked screen, which is unlocked then
 */
export async function simulatedEngine(
  name: string,
  settings: SimulatedSettings = {},
  startsLocked = false,
): Promise<ConformanceEngine> {
  return {
    name: "vz",
    title: `the vz engine on the simulated framework, ${name}`,
    missing: realMac ? "this is a real Mac" : await missingForSimulation(),
    shape: { vcpuCount: 2, memoryMiB: 512, diskMiB: 640 },
    savesProcesses: false,
    open: async (root) => {
      const mac = await simulateFramework(join(root, "mac"), settings);
      if (startsLocked) await mac.lockScreen(true);
      const opened = await openIn(root, mac);
      if (startsLocked) await mac.lockScreen(false);
      return opened;
    },
  };
}

/** The engine on the Mac that this runs on, or undefined. */
export function realEngine(): ConformanceEngine | undefined {
  if (!realMac) return undefined;
  return {
    name: "vz",
    title: "the vz engine",
    missing: undefined,
    shape: { vcpuCount: 2, memoryMiB: 512, diskMiB: 640 },
    savesProcesses: true,
    open: (root) => openIn(root, realMac),
  };
}

async function openIn(root: string, mac: Parameters<typeof optionsIn>[1]) {
  // A machine of a probe would be among those that the tests count.
  const options = { ...optionsIn(root, mac), probeAgainMs: 3_600_000 };
  const { kernel, initramfs, baseDisk } = mac;
  const driver = await VzDriver.open({ ...options, log: quiet });
  return { driver, guest: { kernel, initramfs, baseDisk }, options: { ...options } };
}
