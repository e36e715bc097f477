/**
 * The probe of the host finds out what only a try can tell: with which devices a machine can be saved and restored, and
 * whether one saved state runs as several machines at once. A verdict is kept per host, system and helper. A host where
 * nothing can be saved, now or ever, boots its machines; that is no verdict, and is tried again.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import { Scope } from "../../scope.ts";
import { type Ability, newSessionId, type SnapshotManifest, type Vm, type VmDriver } from "../driver.ts";
import { readVerdict, type Verdict, writeVerdict } from "../verdict.ts";
import { isRestoreRefusal, type OptionalDevice } from "./helper-messages.ts";

const shape = { vcpuCount: 1, memoryMiB: 256, diskMiB: 1 };

/** Sets of devices that are left out, in the order in which they are tried. Each has a name in the verdict. */
const ladder: readonly (readonly [name: string, without: readonly OptionalDevice[]])[] = [
  ["all devices", []],
  ["without entropy", ["entropy"]],
  ["without network", ["network"]],
  ["without entropy and network", ["entropy", "network"]],
];

export interface HostProbe {
  readonly machinesFolder: string;
  readonly cacheFolder: string;
  readonly kernel: string;
  readonly initramfs: string;
  readonly baseDisk: string;
  readonly hostId: string;
  /** Whether memory can be saved now, as the helper judges it by the screen alone. */
  readonly memorySnapshot: Ability;
  readonly log: Logger;
  /** Makes the driver leave out these devices from the next machine on. */
  readonly leaveOut: (devices: readonly OptionalDevice[]) => void;
}

export interface ProbedHost {
  readonly memorySnapshot: Ability;
  readonly fanOut: Ability;
}

/**
 * The verdict that is known already, or that a probe finds now. The probe never fails: what it cannot do is an ability
 * that the host lacks, with the reason.
 */
export async function probeHost(driver: VmDriver, probe: HostProbe): Promise<ProbedHost> {
  const { memorySnapshot, log, cacheFolder, hostId, leaveOut } = probe;
  const path = join(cacheFolder, "fan-out.json");
  const host = `${hostId} ${driver.info.version}`;
  const known = await readVerdict(path, host);
  const rung = ladder.find(([name]) => name === (known?.variant ?? "all devices"));
  if (known && rung) {
    leaveOut(rung[1]);
    log.info({ works: known.works, reason: known.reason, devices: rung[0], remembered: true }, "fan-out probe");
    return { memorySnapshot, fanOut: fanOutOf(known) };
  }
  if (!memorySnapshot.supported) return notProbed(memorySnapshot.reason, memorySnapshot);
  const problems: string[] = [];
  for (const [variant, without] of ladder) {
    leaveOut(without);
    try {
      const { isFinal, ...found } = await tryHost(driver, probe);
      const verdict = { host, variant, ...found };
      if (isFinal) await writeVerdict(path, verdict);
      log.info({ works: found.works, reason: found.reason, devices: variant, remembered: false }, "fan-out probe");
      return { memorySnapshot, fanOut: fanOutOf(verdict) };
    } catch (error) {
      log.warn({ devices: variant, error: messageOf(error) }, "the host probe could not save and restore a machine");
      problems.push(`${variant}: ${messageOf(error)}`);
      // A locked screen and a full disk are the same for every set of devices.
      const isOfHost = isDomainError(error, "not_ready") || isDomainError(error, "disk_pressure");
      if (isOfHost && !isRestoreRefusal(error)) break;
    }
  }
  leaveOut([]);
  const reason = `no machine could be saved and restored: ${problems.join("; ")}`;
  return notProbed(reason, { supported: false, reason });
}

const fanOutOf = ({ works, reason }: Pick<Verdict, "works" | "reason">): Ability =>
  works ? { supported: true } : { supported: false, reason };

function notProbed(reason: string, memorySnapshot: Ability): ProbedHost {
  return { memorySnapshot, fanOut: { supported: false, reason: `not probed: ${reason}` } };
}

interface Tried {
  readonly works: boolean;
  readonly reason: string;
  /** Whether the result is a fact of the host, to be remembered. */
  readonly isFinal: boolean;
}

/**
 * Boots a machine, saves it, ends it and restores it, and then a second time at once.
 * @throws what keeps the machine from being saved and restored once
 */
async function tryHost(driver: VmDriver, probe: HostProbe): Promise<Tried> {
  await using scope = new Scope();
  const folder = await mkdtemp(join(probe.machinesFolder, "probe-"));
  scope.defer(() => rm(folder, { recursive: true, force: true }));
  const snapshotFolder = join(folder, "snapshot");
  const manifest = await saveOne(driver, probe, snapshotFolder);
  const restore = async (): Promise<Vm> => {
    const vm = await driver.restore({ sessionId: newSessionId(), snapshotFolder, manifest });
    scope.defer(() => vm.terminate());
    return vm;
  };
  const first = await restore();
  (await first.openGuestLink()).destroy();
  try {
    await restore();
    return { works: true, reason: "two machines ran from one save", isFinal: true };
  } catch (error) {
    const reason = `a second machine of one save was refused: ${messageOf(error)}`;
    return { works: false, reason, isFinal: isRestoreRefusal(error) };
  }
}

async function saveOne(driver: VmDriver, probe: HostProbe, snapshotFolder: string): Promise<SnapshotManifest> {
  await using scope = new Scope();
  const { kernel, initramfs, baseDisk } = probe;
  const vm = await driver.boot({ sessionId: newSessionId(), shape, kernel, initramfs, baseDisk });
  scope.defer(() => vm.terminate());
  const link = await vm.openGuestLink().catch((error: unknown) => {
    throw new DomainError("machine_failed", `the guest does not answer: ${messageOf(error)}`, {}, { cause: error });
  });
  link.destroy();
  await vm.pause();
  return await vm.saveSnapshot(snapshotFolder, { bootId: "" });
}
