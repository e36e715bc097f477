/** The gvisor engine with real machines: the conformance suite of all engines, and tests of this engine alone. */
import { join } from "node:path";
import { pino } from "pino";
import { GvisorDriver } from "../../src/machine/gvisor/driver.ts";
import { type GuestAssets, readGuestAssets } from "../../src/template/assets/guest-assets.ts";
import { type ConformanceEngine, conformance } from "../machine/conformance.ts";
import { missingForGvisor, runsc } from "../support/daemon/gvisor.ts";
import { cacheDir } from "../support/daemon/real-daemon.ts";

const assets: GuestAssets | undefined = await readGuestAssets(cacheDir()).catch(() => undefined);

const engine: ConformanceEngine = {
  name: "gvisor",
  title: "the gvisor engine",
  missing: assets ? missingForGvisor() : "there are no guest assets",
  shape: { vcpuCount: 2, memoryMiB: 512, diskMiB: 8192 },
  savesProcesses: true,
  open: async (root) => {
    if (!assets) throw new Error("there are no guest assets");
    const { kernel, initramfs, baseDisk, agent } = assets;
    const options = { machinesFolder: join(root, "m"), cacheFolder: cacheDir(), agent, runsc };
    const driver = await GvisorDriver.open({ ...options, log: pino({ level: "silent" }) });
    return { driver, guest: { kernel, initramfs, baseDisk }, options };
  },
};

conformance(engine);
