/** The engine of the daemon: the one that the settings name, or the best that works on this host by itself. */
import { randomUUID } from "node:crypto";
import { readFile, readlink } from "node:fs/promises";
import { join } from "node:path";
import { systemClock } from "./clock.ts";
import type { Config } from "./config.ts";
import { DomainError, messageOf } from "./errors.ts";
import { openGuestAgent } from "./guest-machine/agent.ts";
import type { Logger } from "./log.ts";
import type { VmDriver } from "./machine/driver.ts";
import { GvisorDriver } from "./machine/gvisor/driver.ts";
import { QemuDriver } from "./machine/qemu/driver.ts";
import { readVerdict, writeVerdict } from "./machine/verdict.ts";
import { VzDriver } from "./machine/vz/driver.ts";
import type { GuestAssets } from "./template/assets/guest-assets.ts";
import type { EngineName } from "./types.ts";

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

export interface Host {
  readonly config: EngineConfig;
  readonly assets: GuestAssets;
  readonly machinesFolder: string;
  /** The engines whose sandboxes or templates the state folder has. */
  readonly heldEngines: readonly EngineName[];
  readonly log: Logger;
}

/**
 * Opens the driver of the engine that the settings name.
 * @throws DomainError `unsupported` naming another engine's option; what the engine's driver throws
 */
export async function openEngine(host: Host): Promise<ChosenEngine> {
  const { engine, keepAwake, vzConsole } = host.config;
  const runs = engine === "auto" && process.platform === "darwin" ? "vz" : engine;
  if (runs !== "vz" && (keepAwake === "yes" || vzConsole === "yes")) {
    const option = keepAwake === "yes" ? "--keep-awake" : "--vz-console";
    throw new DomainError("unsupported", `${option} is for the vz engine, and this daemon runs ${runs}.`);
  }
  switch (runs) {
    case "auto":
      return chooseOnLinux(host);
    case "qemu":
      return named(await openQemu(host), engine);
    case "gvisor":
      return named(await openGvisor(host), engine);
    case "vz":
      return named(await openVz(host), engine);
    default:
      return runs satisfies never;
  }
}

const named = (driver: VmDriver, engine: string): ChosenEngine => ({
  driver,
  chosenBecause: engine === "auto" ? "auto: macOS has this one" : `--engine ${engine}`,
});

/**
 * KVM where it works, because a virtual machine has the thicker wall; else gVisor, whose programs run at the host's own
 * speed; else emulation, which works everywhere. A state folder stays with the engine that has its sandboxes.
 */
async function chooseOnLinux(host: Host): Promise<ChosenEngine> {
  const { config, log, heldEngines } = host;
  const held = heldEngines.length === 1 ? heldEngines[0] : undefined;
  const qemu = await openQemu(host);
  const choose = (driver: VmDriver, reason: string): ChosenEngine => ({ driver, chosenBecause: `auto: ${reason}` });
  if (config.accel !== "auto") return choose(qemu, `--accel ${config.accel} is for qemu`);
  const bound = `this state folder has sandboxes or templates of ${held}; another engine takes another state folder`;
  if (held === "qemu") return choose(qemu, bound);
  const { acceleration } = qemu.info;
  if (acceleration === "kvm" && held !== "gvisor") return choose(qemu, "KVM works here");
  try {
    const gvisor = await openGvisor(host);
    await tryOutOnce(gvisor, host);
    await qemu[Symbol.asyncDispose]();
    return choose(gvisor, held ? bound : "KVM does not work here, and gVisor does");
  } catch (error) {
    const problem = messageOf(error);
    log.warn({ reason: problem }, "gVisor does not work here");
    return choose(qemu, acceleration === "kvm" ? "KVM works here" : `neither KVM nor gVisor works here: ${problem}`);
  }
}

/** Tries the engine out, unless it has worked since this host started, in the namespaces of this process. */
async function tryOutOnce(driver: VmDriver, { assets, config, log }: Host): Promise<void> {
  const path = join(config.cacheDir, "gvisor", "works.json");
  const host = await describeSurroundings(driver.info.version);
  if ((await readVerdict(path, host))?.works) return;
  process.stderr.write("  try gVisor …\n");
  await tryOut(driver, assets, log);
  await writeVerdict(path, { host, works: true, reason: "a machine has answered" });
}

/** What decides whether machines of gVisor start: besides their program what this process may do, and the kernel. */
async function describeSurroundings(version: string): Promise<string> {
  const namespaces = ["cgroup", "mnt", "net", "pid", "user"].map((name) => readlink(`/proc/self/ns/${name}`));
  const bootId = (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
  const privileges = (await readFile("/proc/self/status", "utf8")).match(/^(CapEff|NoNewPrivs|Seccomp):.*$/gm) ?? [];
  return [version, bootId, ...privileges, ...(await Promise.all(namespaces))].join(" ");
}

/** Boots a machine, waits until its agent answers, and ends it. @throws when it does not come to that */
export async function tryOut(driver: VmDriver, assets: GuestAssets, log: Logger): Promise<void> {
  const { kernel, initramfs, baseDisk } = assets;
  const sessionId = randomUUID().replaceAll("-", "");
  const signal = AbortSignal.timeout(probeDeadlineMs);
  const request = { sessionId, shape: probeShape, kernel, initramfs, baseDisk, internetAccess: false };
  const vm = await driver.boot(request, signal);
  try {
    (await openGuestAgent(vm, { clock: systemClock, log, booted: true, signal })).close();
  } finally {
    await vm.terminate();
  }
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
