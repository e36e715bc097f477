/** The engine of the daemon: the one that the settings name, or the best that works on this host by itself. */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import type { Config } from "./config.ts";
import { DomainError } from "./errors.ts";
import type { Logger } from "./log.ts";
import type { VmDriver } from "./machine/driver.ts";
import { GvisorDriver } from "./machine/gvisor/driver.ts";
import { QemuDriver } from "./machine/qemu/driver.ts";
import { VzDriver } from "./machine/vz/driver.ts";
import type { GuestAssets } from "./template/assets/guest-assets.ts";

/** An open engine, and why it is this one. */
export interface ChosenEngine {
  readonly driver: VmDriver;
  readonly chosenBecause: string;
}

type EngineConfig = Pick<
  Config,
  "engine" | "accel" | "cacheDir" | "cpuModel" | "keepAwake" | "runsc" | "vzConsole" | "vzHelper"
>;

const probeShape = { vcpuCount: 1, memoryMiB: 512, diskMiB: 1024 } as const;
const probeDeadlineMs = 60_000;

/**
 * Opens the driver of the engine that the settings name.
 * @throws DomainError `unsupported` naming another engine's option; what the engine's driver throws
 */
export async function openEngine(
  config: EngineConfig,
  assets: GuestAssets,
  machinesFolder: string,
  log: Logger,
): Promise<ChosenEngine> {
  const { engine, keepAwake, vzConsole } = config;
  if (engine !== "vz" && (keepAwake === "yes" || vzConsole === "yes")) {
    const option = keepAwake === "yes" ? "--keep-awake" : "--vz-console";
    throw new DomainError("unsupported", `${option} is for the vz engine, and this daemon runs ${engine}.`);
  }
  const host = { config, assets, machinesFolder, log };
  switch (engine) {
    case "auto":
      return process.platform === "darwin" ? named(await openVz(host), "vz") : chooseOnLinux(host);
    case "qemu":
      return named(await openQemu(host), engine);
    case "gvisor":
      return named(await openGvisor(host), engine);
    case "vz":
      return named(await openVz(host), engine);
    default:
      return engine satisfies never;
  }
}

interface Host {
  readonly config: EngineConfig;
  readonly assets: GuestAssets;
  readonly machinesFolder: string;
  readonly log: Logger;
}

const named = (driver: VmDriver, engine: string): ChosenEngine => ({
  driver,
  chosenBecause: `--engine ${engine}, or the default of this system`,
});

/**
 * KVM where it works, else emulation. gVisor is faster than emulation, and is not chosen by itself before the whole SDK suite
 * has passed on it.
 */
async function chooseOnLinux(host: Host): Promise<ChosenEngine> {
  const driver = await openQemu(host);
  const reason =
    driver.info.acceleration === "kvm"
      ? "KVM works here"
      : "QEMU emulates, because KVM is not used here; --engine gvisor is faster where it works";
  return { driver, chosenBecause: `auto: ${reason}` };
}

/** Boots a machine and ends it. @throws when it does not boot */
export async function tryOut(driver: VmDriver, { kernel, initramfs, baseDisk }: GuestAssets): Promise<void> {
  const sessionId = randomUUID().replaceAll("-", "");
  const request = { sessionId, shape: probeShape, kernel, initramfs, baseDisk, internetAccess: false };
  const vm = await driver.boot(request, AbortSignal.timeout(probeDeadlineMs));
  await vm.terminate();
}

const common = ({ config, assets, machinesFolder, log }: Host) => ({
  machinesFolder,
  cacheFolder: config.cacheDir,
  kernel: assets.kernel,
  initramfs: assets.initramfs,
  log,
});

function openQemu(host: Host): Promise<VmDriver> {
  const { accel, cpuModel } = host.config;
  return QemuDriver.open({ ...common(host), acceleration: accel, cpuModel });
}

function openGvisor(host: Host): Promise<VmDriver> {
  const { runsc, cacheDir } = host.config;
  const { assets, machinesFolder, log } = host;
  const { agent } = assets;
  return GvisorDriver.open({ machinesFolder, cacheFolder: cacheDir, agent, log, ...(runsc ? { runsc } : {}) });
}

function openVz(host: Host): Promise<VmDriver> {
  const { cacheDir, vzHelper, keepAwake, vzConsole } = host.config;
  return VzDriver.open({
    ...common(host),
    baseDisk: host.assets.baseDisk,
    helper: vzHelper ?? join(cacheDir, "assets", "vz", "firkin-vz"),
    keepAwake: keepAwake === "yes",
    consoles: vzConsole === "yes",
  });
}
