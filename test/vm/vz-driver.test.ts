/** The vz engine: the suite of all engines on the simulated framework, and what only this engine has. */
import { join } from "node:path";
import { pino } from "pino";
import { VzDriver } from "../../src/machine/vz/driver.ts";
import { type ConformanceEngine, conformance } from "../machine/conformance.ts";
import { missingForSimulation, simulateFramework } from "../support/simulated-framework.ts";

const engine: ConformanceEngine = {
  name: "vz",
  title: "the vz engine on the simulated framework",
  missing: await missingForSimulation(),
  shape: { vcpuCount: 2, memoryMiB: 512, diskMiB: 640 },
  savesProcesses: false,
  open: async (root) => {
    const { helper, kernel, initramfs, baseDisk } = await simulateFramework(join(root, "mac"));
    const guest = { kernel, initramfs, baseDisk };
    const options = { machinesFolder: join(root, "m"), cacheFolder: join(root, "cache"), helper, ...guest };
    return { driver: await VzDriver.open({ ...options, log: pino({ level: "silent" }) }), guest, options };
  },
};

conformance(engine);
