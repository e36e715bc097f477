/** The host of the qemu engine: what a driver finds out about it, once, before it starts machines. */
import { join } from "node:path";
import type { Logger } from "../../log.ts";
import type { EngineInfo } from "../driver.ts";
import { openDataFinder } from "../file-data.ts";
import { Images } from "../images.ts";
import type { Jail } from "../jail/jail.ts";
import { findNetworkTools, type NetworkTools } from "../network/network.ts";
import { type AccelerationChoice, decideAcceleration, decideCpus } from "./acceleration.ts";
import type { CpuSetting, GuestCpus } from "./cpu.ts";
import { openJail, type QemuEngines } from "./engines.ts";
import type { RunningMachine } from "./machine.ts";

export interface QemuDriverOptions {
  /** Each VM gets a folder in it, named after its session. On the file system of the snapshots; a short path. */
  readonly machinesFolder: string;
  readonly cacheFolder: string;
  readonly acceleration: AccelerationChoice;
  /** The processor that guests see; default `auto`: see `cpu.ts`. */
  readonly cpuModel?: CpuSetting;
  /** The probe of `acceleration: "auto"` boots this kernel. */
  readonly kernel: string;
  readonly initramfs: string;
  readonly log: Logger;
}

export interface QemuHost {
  readonly jail: Jail;
  readonly engines: QemuEngines;
  readonly images: Images;
  readonly networkTools: NetworkTools;
  readonly cpus: GuestCpus;
}

export type QemuInfo = EngineInfo & Pick<RunningMachine, "acceleration">;

/**
 * Finds the engine, and decides acceleration and processor.
 * @param options with absolute paths, and the engine's own folder in the cache
 * @throws DomainError `failed_precondition` naming what is missing; `invalid_argument` for settings that do not fit
 */
export async function openHost(
  options: QemuDriverOptions,
  cacheFolder: string,
): Promise<{ readonly host: QemuHost; readonly info: QemuInfo }> {
  const { engines, jail } = await openJail(options);
  const engine = engines.current;
  const [networkTools, findData] = await Promise.all([
    findNetworkTools(jail, options.cacheFolder),
    openDataFinder(options.cacheFolder),
  ]);
  const images = await Images.open(cacheFolder, join(options.cacheFolder, "images"), findData);
  const probe = { ...options, choice: options.acceleration, jail, engine };
  const acceleration = await decideAcceleration(probe);
  const cpus = await decideCpus(probe, acceleration);
  const supported = { supported: true } as const;
  const abilities = { memorySnapshot: supported, fanOut: supported, pause: supported, network: supported };
  const [{ version }, cpuClass] = [engine, cpus.current.class];
  const info = { engine: "qemu", version, acceleration, cpuClass, abilities, walls: jail.walls } as const;
  return { host: { jail, engines, networkTools, images, cpus }, info };
}
