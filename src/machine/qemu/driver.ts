/**
 * This room is the engine `qemu`: everything that knows QEMU's `microvm` machine on Linux, with KVM where that works
 * and TCG elsewhere. It may call the files of `src/machine/`, and no other engine.
 *
 * Boots make templates. Every sandbox is restored by mapping a snapshot's memory privately and loading its device
 * state.
 */
import { mkdir, readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import { allSettledOrThrow, type Scope } from "../../scope.ts";
import type { MachineRecord } from "../../types.ts";
import {
  type BootRequest,
  isSessionId,
  type KeptEngine,
  type RestoreRequest,
  type SnapshotManifest,
  type Vm,
  type VmDriver,
} from "../driver.ts";
import type { Cell } from "../jail/jail.ts";
import { linkFile } from "../link-file.ts";
import { MachinesFolder } from "../machines-folder.ts";
import { type Network, startNetworkIn, waitForNetwork } from "../network/network.ts";
import { isRunning } from "../processes.ts";
import { checkSocketPaths, qmpSocketName } from "./arguments.ts";
import { describeMachine, kernelCommandLine } from "./boot.ts";
import { copyLayer, diskName, emptyLayer, prepareLayers } from "./disk.ts";
import { engineCommand, type QemuEngine } from "./engines.ts";
import { openHost, type QemuDriverOptions, type QemuHost, type QemuInfo } from "./host.ts";
import { blockedStatus, type LaunchPlan, launchEngine, loadDeferred, queryStatus, waitUntilRunning } from "./launch.ts";
import {
  type QemuMachine,
  type RunningMachine,
  readRunningMachine,
  resolveMachine,
  writeRunningMachine,
} from "./machine.ts";
import { findSockets, memoryName, shareFiles } from "./machine-files.ts";
import { QmpClient } from "./qmp.ts";
import { QemuVm } from "./vm.ts";
import { waitForInit, workOf } from "./watchdog.ts";

const bootAttempts = 4;
const restoreDeadlineMs = 10_000;
const adoptDeadlineMs = 2000;
const networkGraceMs = 200;
/** What QEMU takes beside the guest's memory: translated code, its own data, passt and the guard. */
const engineMemoryMiB = 512;

/** A machine whose folder is filled and whose network runs. */
interface PreparedMachine {
  readonly folder: string;
  readonly cell: Cell;
  readonly engine: QemuEngine;
  readonly running: RunningMachine;
  readonly network: Network;
  readonly start: LaunchPlan["start"];
}

export class QemuDriver implements VmDriver {
  readonly info: QemuInfo;
  readonly #options: QemuDriverOptions;
  readonly #host: QemuHost;
  readonly #machines: MachinesFolder;

  private constructor(options: QemuDriverOptions, info: QemuInfo, host: QemuHost) {
    const { machinesFolder, log } = options;
    this.#options = options;
    this.#machines = new MachinesFolder({
      engine: "qemu",
      path: machinesFolder,
      program: engineCommand,
      checkSocketPaths,
      log,
      giveBack: (sessionId) => host.jail.closeCell(sessionId),
    });
    this.info = info;
    this.#host = host;
  }

  /**
   * Finds the engine and decides its acceleration.
   * @throws DomainError `failed_precondition` naming what is missing and how to install it
   */
  static async open(options: QemuDriverOptions): Promise<QemuDriver> {
    const folder = resolve(options.machinesFolder);
    const cacheFolder = join(resolve(options.cacheFolder), "qemu");
    checkSocketPaths(join(folder, "i".repeat(32)));
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const resolved = { ...options, machinesFolder: folder, cacheFolder };
    const { host, info } = await openHost(resolved, resolve(options.cacheFolder));
    return new QemuDriver(resolved, info, host);
  }

  async boot(request: BootRequest, signal?: AbortSignal): Promise<Vm> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#bootOnce(request, signal);
      } catch (error) {
        signal?.throwIfAborted();
        if (attempt >= bootAttempts || !isDomainError(error, "deadline_exceeded")) throw error;
        const { sessionId } = request;
        this.#options.log.warn({ sessionId, attempt, error: error.message }, "a boot hung and is tried again");
      }
    }
  }

  async restore(request: RestoreRequest, signal?: AbortSignal): Promise<Vm> {
    const { sessionId, snapshotFolder, manifest } = request;
    const { files } = manifest;
    if (!files.memory) throw new DomainError("failed_precondition", `${snapshotFolder} has no memory: boot from it`);
    const engine = this.#engineFor(manifest);
    const machine = await resolveMachine(manifest, this.#host.images);
    // Told apart from an image of another content when this machine is saved.
    this.#host.images.prepare(machine.baseDisk);
    return this.#machines.inNew(sessionId, signal, async (folder, scope) => {
      const memoryPath = join(folder, memoryName);
      const cell = await this.#openCell(sessionId, machine);
      const [network, lowerLayers] = await allSettledOrThrow([
        this.#startNetwork(scope, cell, request.internetAccess),
        prepareLayers({ folder: snapshotFolder, manifest }, folder, this.#options.cacheFolder),
        linkFile(join(snapshotFolder, files.memory.name), memoryPath),
      ]);
      const memory = { name: memoryName, shared: false, sha256: files.memory.sha256 };
      const cpuClass = manifest.cpuClass ?? this.#host.cpus.earlierClass;
      const running = this.#describe({ machine, cpuClass, engine, memory, lowerLayers });
      const devices = join(snapshotFolder, files.devices.name);
      const changes = manifest.memoryChanges && join(snapshotFolder, manifest.memoryChanges.name);
      const start = { kind: "restore", devices, ...(changes ? { memoryChanges: changes } : {}) } as const;
      return this.#launch(scope, { folder, cell, engine, running, network, start }, signal);
    });
  }

  async adopt(record: MachineRecord): Promise<Vm | undefined> {
    this.#machines.checkOwned(record);
    const engine = record.processes.find((process) => process.role === "vm");
    if (!engine || !isRunning(engine)) return undefined;
    const log = this.#options.log.child({ sessionId: record.sessionId });
    let qmp: QmpClient | undefined;
    try {
      const running = await readRunningMachine(record.folder);
      const user = this.#host.jail.userOf(record.sessionId);
      const path = join(await findSockets(record.folder), qmpSocketName);
      qmp = await QmpClient.connect(path, { deadlineMs: adoptDeadlineMs, owner: user });
      const status = await queryStatus(qmp);
      const isBlocked = status === blockedStatus;
      if (status !== "running" && status !== "paused" && !isBlocked) {
        log.warn({ status }, "a recorded VM is in no state in which it can go on");
        qmp.close();
        return undefined;
      }
      this.#host.images.prepare(running.machine.baseDisk);
      return new QemuVm({
        record,
        running,
        qmp,
        // QEMU does not say once more what the error was.
        ...(isBlocked && { blockedBy: "an earlier access failed" }),
        host: this.#host,
        user,
        removeRemains: () => this.#machines.remove(record, networkGraceMs),
        log,
      });
    } catch (error) {
      qmp?.close();
      log.warn({ error: messageOf(error) }, "a recorded VM runs but cannot be taken over");
      if (isRunning(engine)) throw error;
      return undefined;
    }
  }

  async discard(record: MachineRecord): Promise<void> {
    await this.#machines.discard(record, networkGraceMs);
  }

  async filesInUse(): Promise<string[]> {
    const { machinesFolder } = this.#options;
    const { engines } = this.#host;
    const folders = (await readdir(machinesFolder)).filter(isSessionId).map((name) => join(machinesFolder, name));
    const running = await Promise.all(folders.map(readRunningMachine));
    // Which copy a machine runs in is not written down: any of its version, and of the network's programs.
    const foldersOf = (version: string) => engines.all(version).map(({ folder }) => folder);
    const files = running.flatMap(({ machine, engineVersion }) => [machine.baseDisk, ...foldersOf(engineVersion)]);
    return running.length > 0 ? [...files, ...(await engines.networkFolders())] : files;
  }

  async pathsOf({ parents, engineVersion }: Pick<SnapshotManifest, "parents" | "engineVersion">): Promise<string[]> {
    const [engine] = this.#host.engines.all(engineVersion);
    return [...(await this.#host.images.pathsOf(parents)), ...(engine ? [engine.folder] : [])];
  }

  keptEngines(): Promise<KeptEngine[]> {
    return this.#host.engines.others([this.#host.networkTools.engine.folder]);
  }

  removeEngine(folder: string): Promise<void> {
    return this.#host.engines.remove(folder);
  }

  findStrays(known: ReadonlySet<string>): MachineRecord[] {
    return this.#machines.findStrays(known);
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  async #bootOnce(request: BootRequest, signal?: AbortSignal): Promise<Vm> {
    const { sessionId, kernel, initramfs, snapshot } = request;
    const { cacheFolder } = this.#options;
    const { images, cpus } = this.#host;
    const machine = await describeMachine(request, { cpuModel: cpus.current.model, images });
    images.prepare(machine.baseDisk);
    return this.#machines.inNew(sessionId, signal, async (folder, scope) => {
      const engine = this.#host.engines.current;
      const cell = await this.#openCell(sessionId, machine);
      const [network, lowerLayers] = await allSettledOrThrow([
        this.#startNetwork(scope, cell, request.internetAccess),
        snapshot ? prepareLayers(snapshot, folder, cacheFolder) : prepareEmptyLayer(folder, machine, cacheFolder),
      ]);
      const commandLine = await kernelCommandLine(this.info.acceleration, cacheFolder);
      const start = { kind: "boot", kernel, initramfs, commandLine } as const;
      const memory = { name: memoryName, shared: true };
      const running = this.#describe({ machine, cpuClass: cpus.current.class, engine, memory, lowerLayers });
      return this.#launch(scope, { folder, cell, engine, running, network, start }, signal);
    });
  }

  async #launch(
    scope: Scope,
    { folder, cell, engine, running, network, start }: PreparedMachine,
    signal?: AbortSignal,
  ): Promise<Vm> {
    const { machine, acceleration, memory, lowerLayers } = running;
    const lowerNames = lowerLayers.map(({ name }) => name);
    const bootMemoryBytes = memory.shared ? machine.memoryMiB * 2 ** 20 : undefined;
    const plan: LaunchPlan = {
      jail: this.#host.jail,
      cell,
      engine,
      files: await shareFiles(folder, cell, lowerNames, bootMemoryBytes),
      folder,
      machine,
      acceleration,
      memory: { path: join(folder, memory.name), shared: memory.shared },
      layers: [diskName, ...lowerNames].map((name) => join(folder, name)),
      network,
      start,
    };
    await writeRunningMachine(folder, running);
    const launched = await launchEngine(plan, restoreDeadlineMs, signal);
    const { qmp } = launched;
    const sessionId = folder.slice(folder.lastIndexOf("/") + 1);
    const processes = [launched.engine.identity, await network.guard];
    const record = { engine: "qemu", sessionId, folder, processes } as const;
    const log = this.#options.log.child({ sessionId });
    const vm = new QemuVm({
      record,
      running,
      qmp,
      host: this.#host,
      childExited: launched.engine.exited,
      user: cell.user,
      removeRemains: () => this.#machines.remove(record, networkGraceMs),
      log,
    });
    scope.defer(() => vm.terminate());
    await waitForNetwork(network);
    if (start.kind === "boot") {
      await waitForInit(qmp, { readWork: () => workOf(launched.engine.identity), signal });
    } else {
      if (start.memoryChanges) await loadDeferred(launched, plan.memory.path, start.memoryChanges);
      await waitUntilRunning(launched, restoreDeadlineMs);
    }
    return vm;
  }

  /** The guest's memory, and what QEMU and the network take besides. */
  #openCell(sessionId: string, { memoryMiB, vcpuCount }: QemuMachine): Promise<Cell> {
    const memoryBytes = (memoryMiB + engineMemoryMiB) * 2 ** 20;
    return this.#host.jail.openCell(sessionId, { memoryBytes, processors: vcpuCount });
  }

  #startNetwork(scope: Scope, cell: Cell, internetAccess: boolean | undefined): Promise<Network> {
    return startNetworkIn(scope, this.#host.networkTools, cell, this.#options.cacheFolder, internetAccess);
  }

  #describe({
    engine,
    ...described
  }: Pick<RunningMachine, "machine" | "cpuClass" | "memory" | "lowerLayers"> & {
    readonly engine: QemuEngine;
  }): RunningMachine {
    return { ...described, engineVersion: engine.version, acceleration: this.info.acceleration };
  }

  /** Device state only fits the very engine, acceleration and CPU that it was taken from. */
  #engineFor(manifest: SnapshotManifest): QemuEngine {
    const { engine, acceleration } = this.info;
    const made = `${manifest.engine} with ${manifest.acceleration}`;
    const here = `${engine} with ${acceleration}`;
    if (made !== here) {
      const problem = `the snapshot was made by ${made}, and this is ${here}: make it anew`;
      throw new DomainError("failed_precondition", problem);
    }
    this.#host.cpus.refuseForeign(manifest.cpuClass);
    return this.#host.engines.find(manifest.engineVersion);
  }
}

async function prepareEmptyLayer(folder: string, { diskMiB }: QemuMachine, cacheFolder: string): Promise<[]> {
  await copyLayer(await emptyLayer(cacheFolder, diskMiB), join(folder, diskName));
  return [];
}
