/**
 * `node dist/scripts/doctor/gvisor.js CACHE-FOLDER RUNSC` boots a machine of the gvisor engine and ends it, and prints as
 * JSON the version of runsc and which walls do not stand, or the problem. The doctor runs it when the daemon is built.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { tryOut } from "../../src/daemon-engine.ts";
import { messageOf } from "../../src/errors.ts";
import { GvisorDriver } from "../../src/machine/gvisor/driver.ts";
import { readGuestAssets } from "../../src/template/assets/guest-assets.ts";

const [cacheFolder = "", runsc = ""] = process.argv.slice(2);
const folder = await mkdtemp(join(tmpdir(), "fk-doctor-"));
try {
  const assets = await readGuestAssets(cacheFolder);
  const log = pino({ level: "silent" });
  const machinesFolder = join(folder, "m");
  await using driver = await GvisorDriver.open({ machinesFolder, cacheFolder, runsc, agent: assets.agent, log });
  await tryOut(driver, assets, log);
  const { version, walls = [] } = driver.info;
  const weak = walls.filter(({ stands }) => !stands).map(({ detail }) => detail);
  process.stdout.write(JSON.stringify({ version, weak }));
} catch (error) {
  process.stdout.write(JSON.stringify({ problem: messageOf(error).slice(0, 500) }));
} finally {
  await rm(folder, { recursive: true, force: true });
}
