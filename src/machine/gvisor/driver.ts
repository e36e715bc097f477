/**
 * This room is the engine `gvisor`: everything that knows runsc, gVisor's program, on Linux. It may call the files of
 * `src/machine/`, the jail and the network, and no other engine.
 *
 * A machine is a container of one: the guest agent is its first process, because only that process and its children
 * live on after a restore. Its disk is an overlay of the host's, which no checkpoint has a part of.
 */
import { chown, copyFile, mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { DomainError, messageOf } from "../../errors.ts";
import { allSettledOrThrow, type Scope } from "../../scope.ts";
import type { MachineRecord } from "../../types.ts";
import type {
  BootRequest,
  EngineInfo,
  KeptEngine,
  RestoreRequest,
  SnapshotFile,
  SnapshotManifest,
  Vm,
  VmDriver,
} from "../driver.ts";
import type { StoredEngine } from "../jail/engine-store.ts";
import type { Cell } from "../jail/jail.ts";
import { MachinesFolder } from "../machines-folder.ts";
import { type Network, startNetworkIn, waitForNetwork } from "../network/network.ts";
import { isRunning } from "../processes.ts";
import { describeFile } from "../snapshot-files.ts";
import { baseFolder } from "./base-folder.ts";
import { agentFolder, keeperCommand, makeFolders, ordersSocket, startBox } from "./box.ts";
import { placeCheckpoint } from "./checkpoint.ts";
import { copyLayer, diskName, emptyLayer, type PreparedDisk, prepareDisk } from "./disk.ts";
import {
  type GvisorDriverOptions,
  type GvisorHost,
  listOthers,
  openHost,
  ownedEntry,
  readMachines,
  removeOther,
  runscPath,
} from "./host.ts";
import {
  type GvisorMachine,
  type RunningMachine,
  readRunningMachine,
  resolveMachine,
  writeRunningMachine,
} from "./machine.ts";
import { Orders } from "./orders.ts";
import { agentName } from "./spec.ts";
import { firstFileOwner } from "./users.ts";
import { GvisorVm } from "./vm.ts";

const adoptDeadlineMs = 2000;
const networkGraceMs = 200;
/** What gVisor's kernel, its helpers, the keeper and the network take beside the guest's memory. */
const engineMemoryMiB = 256;
/** Each process and thread of a guest is one of the host, too. */
const maxProcesses = 4096;

/** Whom a machine's network runs as, and the first of the users in its box. */
interface BoxCell extends Cell {
  readonly users: number;
}

/** A machine whose folder has all but a description. */
interface PreparedMachine {
  readonly folder: string;
  readonly cell: BoxCell;
  readonly network: Network;
  readonly machine: GvisorMachine;
  readonly engine: StoredEngine;
  readonly agent: SnapshotFile;
  readonly disk: PreparedDisk;
  /** See {@link RunningMachine.pages}; undefined: the machine boots. */
  readonly pages: readonly SnapshotFile[] | undefined;
}

export class GvisorDriver implements VmDriver {
  readonly info: EngineInfo;
  readonly #options: GvisorDriverOptions;
  readonly #host: GvisorHost;
  readonly #machines: MachinesFolder;

  private constructor(options: GvisorDriverOptions, info: EngineInfo, host: GvisorHost) {
    const { machinesFolder, log } = options;
    this.#options = options;
    this.#machines = new MachinesFolder({
      engine: "gvisor",
      path: machinesFolder,
      program: keeperCommand,
      checkSocketPaths,
      log,
      giveBack: async (sessionId) => {
        host.users.giveBack(sessionId);
        await host.jail.closeCell(sessionId);
      },
    });
    this.info = info;
    this.#host = host;
  }

  /** @throws DomainError `failed_precondition` naming what is missing and how to install it */
  static async open(options: GvisorDriverOptions): Promise<GvisorDriver> {
    const machinesFolder = resolve(options.machinesFolder);
    const cacheFolder = join(resolve(options.cacheFolder), "gvisor");
    checkSocketPaths(join(machinesFolder, "i".repeat(32)));
    await mkdir(machinesFolder, { recursive: true, mode: 0o700 });
    const resolved = { ...options, machinesFolder, cacheFolder };
    const { host, info } = await openHost(resolved, resolve(options.cacheFolder));
    return new GvisorDriver(resolved, info, host);
  }

  async boot(request: BootRequest, signal?: AbortSignal): Promise<Vm> {
    const { sessionId, snapshot } = request;
    const { cacheFolder, agent: agentProgram } = this.#options;
    const machine = await this.#describe(request);
    this.#host.images.prepare(machine.baseDisk);
    return this.#machines.inNew(sessionId, signal, async (folder, scope) => {
      const cell = await this.#openCell(sessionId, folder, machine);
      const network = await this.#startNetwork(scope, cell, request.internetAccess);
      const disk = snapshot
        ? await prepareDisk(snapshot, folder, cacheFolder)
        : await prepareEmptyDisk(folder, machine, cacheFolder);
      await copyFile(agentProgram, join(agentFolder(folder), agentName));
      const agent = await describeFile(agentFolder(folder), agentName);
      const engine = this.#host.runsc.current;
      return this.#start(scope, { folder, cell, network, machine, engine, agent, disk, pages: undefined }, signal);
    });
  }

  async restore(request: RestoreRequest, signal?: AbortSignal): Promise<Vm> {
    const { sessionId, snapshotFolder, manifest } = request;
    const { files } = manifest;
    if (files.memory === undefined)
      throw new DomainError("failed_precondition", `${snapshotFolder} has no memory: boot from it`);
    const engine = this.#engineFor(manifest);
    const machine = await resolveMachine(manifest, this.#host.images);
    this.#host.images.prepare(machine.baseDisk);
    return this.#machines.inNew(sessionId, signal, async (folder, scope) => {
      const cell = await this.#openCell(sessionId, folder, machine);
      const [network, disk, pages] = await allSettledOrThrow([
        this.#startNetwork(scope, cell, request.internetAccess),
        prepareDisk({ folder: snapshotFolder, manifest }, folder, this.#options.cacheFolder),
        placeCheckpoint(snapshotFolder, manifest, files, folder),
      ]);
      const agent = files.devices;
      return this.#start(scope, { folder, cell, network, machine, engine, agent, disk, pages }, signal);
    });
  }

  async adopt(record: MachineRecord): Promise<Vm | undefined> {
    this.#machines.checkOwned(record);
    const engine = record.processes.find((process) => process.role === "vm");
    if (!engine || !isRunning(engine)) return undefined;
    const log = this.#options.log.child({ sessionId: record.sessionId });
    let orders: Orders | undefined;
    try {
      const running = await readRunningMachine(record.folder);
      orders = await Orders.connect(ordersSocket(record.folder));
      await orders.give("state", adoptDeadlineMs);
      this.#host.images.prepare(running.machine.baseDisk);
      return this.#asVm(record, running, orders);
    } catch (error) {
      orders?.close();
      log.warn({ error: messageOf(error) }, "a recorded machine runs but cannot be taken over");
      if (isRunning(engine)) throw error;
      return undefined;
    }
  }

  async discard(record: MachineRecord): Promise<void> {
    await this.#machines.discard(record, networkGraceMs);
  }

  async filesInUse(): Promise<string[]> {
    const running = await readMachines(this.#options.machinesFolder);
    return running.flatMap(({ machine, engineVersion }) => [machine.baseDisk, ...this.#foldersOf(engineVersion)]);
  }

  async pathsOf({ parents, engineVersion }: Pick<SnapshotManifest, "parents" | "engineVersion">): Promise<string[]> {
    return [...(await this.#host.images.pathsOf(parents)), ...this.#foldersOf(engineVersion)];
  }

  keptEngines(): Promise<KeptEngine[]> {
    return listOthers(this.#host.runsc);
  }

  removeEngine(folder: string): Promise<void> {
    return removeOther(this.#host.runsc, folder);
  }

  findStrays(known: ReadonlySet<string>): MachineRecord[] {
    return this.#machines.findStrays(known);
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  async #start(scope: Scope, prepared: PreparedMachine, signal?: AbortSignal): Promise<Vm> {
    const { folder, cell, network, machine, engine, agent, disk, pages } = prepared;
    const running = {
      machine,
      cpuClass: this.#host.cpuClass,
      engineVersion: engine.version,
      agent,
      lowerLayers: [...disk.lowerLayers],
      pages: [...(pages ?? [])],
    };
    await writeRunningMachine(folder, running);
    const base = await this.#baseOf(machine.baseDisk);
    const { users, groups } = cell;
    const isRestored = pages !== undefined;
    const plan = { folder, machine, base, disk, users, groups, network, isRestored };
    const box = await startBox({ ...plan, tools: this.#host.boxTools, runsc: runscPath(engine) }, signal);
    const sessionId = folder.slice(folder.lastIndexOf("/") + 1);
    const processes = [box.process.identity, await network.guard];
    const vm = this.#asVm({ engine: "gvisor", sessionId, folder, processes }, running, box.orders, box.process.exited);
    scope.defer(() => vm.terminate());
    await waitForNetwork(network);
    return vm;
  }

  /** A box mounts the disk itself where mounts can show its files as the box's own. Elsewhere they are taken out. */
  #baseOf(baseDisk: string): string | Promise<string> {
    const isMounted = this.#host.users.sharedBecause === undefined;
    return isMounted ? baseDisk : baseFolder(baseDisk, firstFileOwner, this.#options.cacheFolder);
  }

  #asVm(record: MachineRecord, running: RunningMachine, orders: Orders, childExited?: Promise<string>): GvisorVm {
    return new GvisorVm({
      record,
      running,
      orders,
      info: this.info,
      images: this.#host.images,
      imageTool: this.#host.boxTools.image,
      findData: this.#host.findData,
      ...(childExited ? { childExited } : {}),
      removeRemains: () => this.#machines.remove(record, networkGraceMs),
    });
  }

  #foldersOf(engineVersion: string): string[] {
    const versions = this.#host.runsc.all.filter(({ version }) => version === engineVersion);
    return versions.map(({ folder }) => folder);
  }

  async #describe({ shape, baseDisk, snapshot }: BootRequest): Promise<GvisorMachine> {
    const { sharesPages } = this.#host.runsc;
    // The machine boots on the runsc of now, whatever the snapshot was made by.
    if (snapshot) return { ...(await resolveMachine(snapshot.manifest, this.#host.images)), sharesPages };
    return { deviceSet: 1, platform: "systrap", ...shape, baseDisk, sharesPages };
  }

  async #openCell(sessionId: string, folder: string, { memoryMiB, vcpuCount }: GvisorMachine): Promise<BoxCell> {
    const memoryBytes = (memoryMiB + engineMemoryMiB) * 2 ** 20;
    const limits = { memoryBytes, processors: vcpuCount, processes: maxProcesses };
    const cell = await this.#host.jail.openCell(sessionId, limits);
    const users = this.#host.users.take(sessionId);
    await makeFolders(folder, users);
    const owned = join(folder, ownedEntry);
    await mkdir(owned, { mode: 0o700 });
    if (cell.user !== undefined) await chown(owned, cell.user, cell.user);
    return { ...cell, users };
  }

  #startNetwork(scope: Scope, cell: Cell, internetAccess: boolean | undefined): Promise<Network> {
    return startNetworkIn(scope, this.#host.networkTools, cell, this.#options.cacheFolder, internetAccess);
  }

  /** A checkpoint only fits the very build that wrote it, and a processor that has the same features. */
  #engineFor({ engine: madeBy, engineVersion, cpuClass }: SnapshotManifest): StoredEngine {
    const { cpuClass: own, runsc } = this.#host;
    const refuse = (problem: string) => new DomainError("failed_precondition", `${problem}: make it anew`);
    if (madeBy !== "gvisor") throw refuse(`the snapshot was made by ${madeBy}, and this is gvisor`);
    if (cpuClass !== own) throw refuse(`the snapshot needs a processor of class ${cpuClass}, and this host has ${own}`);
    const found = runsc.all.find(({ version }) => version === engineVersion);
    if (found) return found;
    const versions = [...new Set(runsc.all.map(({ version }) => version))].join(", ");
    throw refuse(`the snapshot was made by runsc ${engineVersion}, and here there is ${versions}`);
  }
}

async function prepareEmptyDisk(folder: string, machine: GvisorMachine, cacheFolder: string): Promise<PreparedDisk> {
  await copyLayer(await emptyLayer(cacheFolder, machine.diskMiB), join(folder, diskName));
  return { lowerLayers: [], images: [] };
}

const maxSocketPathBytes = 107;

function checkSocketPaths(folder: string): void {
  const length = Buffer.byteLength(ordersSocket(folder));
  if (length <= maxSocketPathBytes) return;
  const problem = `${ordersSocket(folder)} is too long for a socket (${length} of ${maxSocketPathBytes} bytes)`;
  throw new DomainError("invalid_argument", `${problem}: use a state folder with a shorter path`);
}
