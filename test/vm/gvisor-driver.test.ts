/** The gvisor engine with real machines: the conformance suite of all engines, and tests of this engine alone. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { pino } from "pino";
import { GvisorDriver } from "../../src/machine/gvisor/driver.ts";
import { type GuestAssets, readGuestAssets } from "../../src/template/assets/guest-assets.ts";
import { type ConformanceEngine, conformance } from "../machine/conformance.ts";
import { cacheDir } from "../support/daemon/real-daemon.ts";

const assets: GuestAssets | undefined = await readGuestAssets(cacheDir()).catch(() => undefined);

/** As the set-up makes it, or one that is to be tried. */
const runsc = process.env.FIRKIN_RUNSC ?? join(cacheDir(), "assets", "gvisor", "runsc");

function findMissing(): string | undefined {
  if (!assets) return "there are no guest assets";
  if (process.getuid?.() !== 0) return "only root can start its machines";
  return existsSync(runsc) ? undefined : "there is no runsc";
}

const engine: ConformanceEngine = {
  name: "gvisor",
  title: "the gvisor engine",
  missing: findMissing(),
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
