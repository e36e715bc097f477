/** The host of the gvisor engine: what a driver finds out about it, once, before it starts machines. */
import { execFile } from "node:child_process";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { DomainError, messageOf } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import { buildTool, exists } from "../build-tool.ts";
import { type EngineInfo, isSessionId, type KeptEngine } from "../driver.ts";
import { type FindData, openDataFinder } from "../file-data.ts";
import { Images } from "../images.ts";
import { listEngines, listStore, removeStored, type StoredEngine, storeEngine } from "../jail/engine-store.ts";
import { Jail } from "../jail/jail.ts";
import { findNetworkPrograms, type NetworkTools } from "../network/network.ts";
import type { BoxTools } from "./box.ts";
import { removeUnusedLayers } from "./disk.ts";
import { type RunningMachine, readRunningMachine } from "./machine.ts";
import { BoxUsers } from "./users.ts";
import { describeWalls } from "./walls.ts";

const run = promisify(execFile);

export interface GvisorDriverOptions {
  /** Each machine gets a folder in it, named after its session. On the file system of the snapshots; a short path. */
  readonly machinesFolder: string;
  readonly cacheFolder: string;
  /** The program runsc; undefined: as set-up made it, or in PATH. */
  readonly runsc?: string;
  /** The guest agent's program. */
  readonly agent: string;
  readonly log: Logger;
}

export interface GvisorHost {
  readonly jail: Jail;
  readonly users: BoxUsers;
  readonly networkTools: NetworkTools;
  readonly boxTools: BoxTools;
  readonly images: Images;
  readonly findData: FindData;
  readonly runsc: RunscVersions;
  /** The class of the host's processor: a checkpoint goes on where the processor has the same features. */
  readonly cpuClass: string;
}

/** The jail, in which the networks run, is tried out with it. */
const trialProgram = "/usr/bin/true";

/** What of a machine's folder belongs to the user of its network. */
export const ownedEntry = "network";

/** gVisor's kernel defers next to nothing. */
const restMs = 50;

/** The name of its builds in a store of engines. */
const runscName = "runsc";

/** The builds of runsc: the one that is installed now, and those that earlier snapshots were made by. */
export interface RunscVersions {
  readonly current: StoredEngine;
  /** See {@link GvisorMachine.sharesPages}; of the current one. */
  readonly sharesPages: boolean;
  all: readonly StoredEngine[];
  /** Where the copies are: in the state folder, because an engine of before cannot be had again. */
  readonly storeFolder: string;
}

/** The copies that new machines do not get. */
export async function listOthers({ current, all, storeFolder }: RunscVersions): Promise<KeptEngine[]> {
  const others = new Set(all.map(({ folder }) => folder));
  others.delete(current.folder);
  const entries = await listStore(storeFolder, [runscName]);
  return entries.filter(({ folder }) => others.has(folder)).map((entry) => ({ ...entry, isCached: false }));
}

export async function removeOther(versions: RunscVersions, folder: string): Promise<void> {
  versions.all = versions.all.filter((engine) => engine.folder !== folder);
  await removeStored(folder);
}

/**
 * Finds the engine.
 * @param options with absolute paths; `cacheFolder` is the engine's own folder in the cache
 * @throws DomainError `failed_precondition` naming what is missing
 */
export async function openHost(
  options: GvisorDriverOptions,
  cacheFolder: string,
): Promise<{ readonly host: GvisorHost; readonly info: EngineInfo }> {
  if (process.getuid?.() !== 0) {
    const problem =
      "the engine gvisor mounts disks and makes namespaces, which only root may: start the daemon as root";
    throw new DomainError("failed_precondition", problem);
  }
  await mkdir(options.cacheFolder, { recursive: true, mode: 0o700 });
  const [runsc, launcher, keeper, image, programs, findData, cpuClass] = await Promise.all([
    findRunsc(options, cacheFolder),
    buildTool({ beside: import.meta.url, source: "box.c", headers: boxHeaders }, options.cacheFolder),
    buildTool({ beside: import.meta.url, source: "keeper.c", headers: keeperHeaders }, options.cacheFolder),
    buildTool({ beside: import.meta.url, source: "image.c", headers: ["loop_devices.h"] }, options.cacheFolder),
    findNetworkPrograms(options.cacheFolder),
    openDataFinder(options.cacheFolder),
    readCpuClass(),
  ]);
  const images = await Images.open(cacheFolder, join(options.cacheFolder, "images"), findData);
  const mountPoint = join(options.cacheFolder, "box-root");
  await mkdir(mountPoint, { recursive: true, mode: 0o755 });
  const store = [join(options.cacheFolder, "engines")];
  const engine = await storeEngine(store, { name: "trial", version: "1", programs: [trialProgram], files: [] });
  const jail = await Jail.open({ ...options, ownedEntry }, { engine, command: trialProgram, args: [] });
  const users = await BoxUsers.open({ ...options, launcher, mountPoint });
  if (users.sharedBecause !== undefined)
    options.log.warn({ reason: users.sharedBecause }, "all machines have the same users");
  await removeUnused(options);
  const supported = { supported: true } as const;
  const abilities = { memorySnapshot: supported, fanOut: supported, pause: supported, network: supported };
  const info = {
    engine: "gvisor",
    version: runsc.current.version,
    acceleration: "none",
    cpuClass,
    restMs,
    abilities,
    walls: describeWalls(users.sharedBecause, jail.walls),
  } as const;
  const networkTools = { ...programs, jail };
  return {
    host: {
      ...{ jail, users, networkTools, images, findData, runsc, cpuClass },
      boxTools: { launcher, keeper, image, mountPoint },
    },
    info,
  };
}

const boxHeaders = [
  "box_calls.h",
  "box_loops.h",
  "box_mounts.h",
  "box_network.h",
  "box_owners.h",
  "box_packer.h",
  "layer_archive.h",
  "loop_devices.h",
  "../jail/call_filter.h",
  "../jail/launcher.h",
];
const keeperHeaders = ["keeper.h", "keeper_control.h", "keeper_orders.h", "keeper_processors.h", "keeper_wire.h"];

/** Where the program is in a folder of the store. */
export const runscPath = (engine: StoredEngine) => join(engine.folder, "runsc");

async function findRunsc(options: GvisorDriverOptions, cacheFolder: string): Promise<RunscVersions> {
  const program = await findProgram(options.runsc, cacheFolder);
  const { version, sharesPages } = await inspect(program);
  const storeFolder = join(dirname(options.machinesFolder), "engines");
  const parts = { name: runscName, version, programs: [], files: [], added: [{ source: program, path: "/runsc" }] };
  const current = await storeEngine([join(options.cacheFolder, "engines"), storeFolder], parts);
  const kept = (await listEngines(storeFolder, runscName)).filter(({ folder }) => folder !== current.folder);
  return { current, sharesPages, all: [current, ...kept], storeFolder };
}

async function findProgram(setting: string | undefined, cacheFolder: string): Promise<string> {
  const fromPath = (process.env.PATH ?? "").split(":").filter(Boolean);
  const places = ["/usr/local/bin", "/usr/bin", ...fromPath].map((folder) => join(folder, "runsc"));
  const candidates = setting === undefined ? [join(cacheFolder, "assets", "gvisor", "runsc"), ...places] : [setting];
  for (const path of candidates) if (await exists(path)) return path;
  const problem =
    setting === undefined ? "runsc is not installed. Run: npx firkin setup" : `there is no program ${setting}`;
  throw new DomainError("failed_precondition", problem);
}

async function inspect(program: string): Promise<{ version: string; sharesPages: boolean }> {
  try {
    const [{ stdout }, flags, checkpoint] = await Promise.all([
      run(program, ["--version"]),
      run(program, ["flags"]),
      run(program, ["checkpoint", "--help"]),
    ]);
    const version = /version (?:release-)?([\w.~+-]+)/.exec(stdout)?.[1]?.replaceAll("_", "-");
    if (!version) throw new DomainError("failed_precondition", `${program} does not tell its version`);
    if (`${flags.stdout}${flags.stderr}`.includes("-allow-suid")) {
      return { version, sharesPages: `${checkpoint.stdout}${checkpoint.stderr}`.includes("-pages-file-index") };
    }
    const problem = `${program} ${version} runs no programs with a set-user-ID bit, so there would be no sudo`;
    throw new DomainError("failed_precondition", `${problem}: use a runsc of 2025 or later`);
  } catch (error) {
    if (error instanceof DomainError) throw error;
    const problem = `${program} does not run: ${messageOf(error)}`;
    throw new DomainError("failed_precondition", problem, {}, { cause: error });
  }
}

async function readCpuClass(): Promise<string> {
  const text = await readFile("/proc/cpuinfo", "utf8");
  const [vendor, family, model] = ["vendor_id", "cpu family", "model"].map(
    (name) => new RegExp(`^${name}\\s*:\\s*(.*)$`, "m").exec(text)?.[1]?.trim() ?? "unknown",
  );
  return `host:${vendor}-${family}-${model}`;
}

/** The machines of a folder, as their folders describe them. @throws when one does not */
export async function readMachines(machinesFolder: string): Promise<RunningMachine[]> {
  const names = (await readdir(machinesFolder)).filter(isSessionId);
  return Promise.all(names.map((name) => readRunningMachine(join(machinesFolder, name))));
}

/** What the cache has for machines that are gone. When a machine's folder does not say what it needs, all is kept. */
async function removeUnused({ machinesFolder, cacheFolder, log }: GvisorDriverOptions): Promise<void> {
  try {
    const machines = await readMachines(machinesFolder);
    const layers = machines.flatMap(({ lowerLayers }) => lowerLayers.map(({ sha256 }) => sha256));
    await removeUnusedLayers(cacheFolder, new Set(layers));
  } catch (error) {
    log.warn({ reason: messageOf(error) }, "unpacked layers of disks are kept");
  }
}
