/**
 * The probe of fan-out finds out whether one saved state can run as several machines at once. Reports disagree, so a
 * small machine is saved and restored twice. The verdict is kept per host, system and helper.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import { Scope } from "../../scope.ts";
import { type Ability, newSessionId, type Vm, type VmDriver } from "../driver.ts";
import { readVerdict, type Verdict, writeVerdict } from "../verdict.ts";

const shape = { vcpuCount: 1, memoryMiB: 256, diskMiB: 1 };

export interface FanOutProbe {
  readonly machinesFolder: string;
  readonly cacheFolder: string;
  readonly kernel: string;
  readonly initramfs: string;
  readonly baseDisk: string;
  readonly hostId: string;
  readonly log: Logger;
}

/** The verdict that is known already, or that a probe finds now. There is no probe while the host saves nothing. */
export async function probeFanOut(driver: VmDriver, probe: FanOutProbe): Promise<Ability> {
  const { memorySnapshot } = driver.info.abilities;
  const path = join(probe.cacheFolder, "fan-out.json");
  const host = `${probe.hostId} ${driver.info.version}`;
  const known = await readVerdict(path, host);
  if (!known && !memorySnapshot.supported) {
    return { supported: false, reason: `not probed: ${memorySnapshot.reason}` };
  }
  const verdict = known ?? { host, ...(await tryFanOut(driver, probe)) };
  if (verdict !== known) await writeVerdict(path, verdict);
  probe.log.info({ works: verdict.works, reason: verdict.reason, remembered: verdict === known }, "fan-out probe");
  return verdict.works ? { supported: true } : { supported: false, reason: verdict.reason };
}

/** Boots a machine, saves it, ends it and restores it twice. Both must run at the same time. */
async function tryFanOut(driver: VmDriver, probe: FanOutProbe): Promise<Omit<Verdict, "host">> {
  await using scope = new Scope();
  const folder = await mkdtemp(join(probe.machinesFolder, "fan-out-"));
  scope.defer(() => rm(folder, { recursive: true, force: true }));
  const { kernel, initramfs, baseDisk } = probe;
  const first = await driver.boot({ sessionId: newSessionId(), shape, kernel, initramfs, baseDisk });
  scope.defer(() => first.terminate());
  (await first.openGuestLink()).destroy();
  await first.pause();
  const snapshotFolder = join(folder, "snapshot");
  const manifest = await first.saveSnapshot(snapshotFolder, { bootId: "" });
  await first.terminate();
  const restore = async (): Promise<Vm> => {
    const vm = await driver.restore({ sessionId: newSessionId(), snapshotFolder, manifest });
    scope.defer(() => vm.terminate());
    return vm;
  };
  await restore();
  try {
    await restore();
    return { works: true, reason: "two machines ran from one save" };
  } catch (error) {
    return { works: false, reason: `a second machine of one save was refused: ${messageOf(error)}` };
  }
}
