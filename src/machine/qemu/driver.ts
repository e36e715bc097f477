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
import type { Logger } from "../../log.ts";
import type { Scope } from "../../scope.ts";
import type { MachineRecord } from "../../types.ts";
import {
  type BootRequest,
  type EngineInfo,
  isSessionId,
  type RestoreRequest,
  type SnapshotManifest,
  type Vm,
  type VmDriver,
} from "../driver.ts";
import type { Cell, Jail } from "../jail/jail.ts";
import { MachinesFolder } from "../machines-folder.ts";
import { isRunning } from "../processes.ts";
import { type AccelerationChoice, decideAcceleration } from "./acceleration.ts";
import { checkSocketPaths, qmpSocketName } from "./arguments.ts";
import { describeMachine, kernelCommandLine } from "./boot.ts";
import { copyLayer, diskName, emptyLayer, linkFile, prepareLayers } from "./disk.ts";
import { engineCommand, openJail, type QemuEngine, type QemuEngines } from "./engines.ts";
import { type LaunchPlan, launchEngine, loadDeferred, queryStatus, waitUntilRunning } from "./launch.ts";
import {
  parseMachine,
  type QemuMachine,
  type RunningMachine,
  readRunningMachine,
  writeRunningMachine,
} from "./machine.ts";
import { findSockets, memoryName, shareFiles } from "./machine-files.ts";
import { findNetworkTools, type Network, type NetworkTools, startNetwork, waitForNetwork } from "./network.ts";
import { QmpClient } from "./qmp.ts";
import { QemuVm } from "./vm.ts";
import { waitForInit } from "./watchdog.ts";

const bootAttempts = 4;
/** On an idle host a boot under TCG takes a second and is never silent for half of one. */
const bootLimits = { silenceMs: 8000, deadlineMs: 60_000 } as const;
const restoreDeadlineMs = 10_000;
const adoptDeadlineMs = 2000;
const networkGraceMs = 200;
/** What QEMU takes beside the guest's memory: translated code, its own data, passt and the guard. */
const engineMemoryMiB = 512;

export interface QemuDriverOptions {
  /** Each VM gets a folder in it, named after its session. On the file system of the snapshots; a short path. */
  readonly machinesFolder: string;
  readonly cacheFolder: string;
  readonly acceleration: AccelerationChoice;
  /** The probe of `acceleration: "auto"` boots this kernel. */
  readonly kernel: string;
  readonly initramfs: string;
  readonly log: Logger;
}

type QemuInfo = EngineInfo & Pick<RunningMachine, "acceleration">;

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
  readonly #jail: Jail;
  readonly #engines: QemuEngines;
  readonly #networkTools: NetworkTools;
  readonly #machines: MachinesFolder;

  private constructor(
    options: QemuDriverOptions,
    info: QemuInfo,
    { jail, engines, networkTools }: { jail: Jail; engines: QemuEngines; networkTools: NetworkTools },
  ) {
    const { machinesFolder, log } = options;
    this.#options = options;
    this.#machines = new MachinesFolder({
      engine: "qemu",
      path: machinesFolder,
      program: engineCommand,
      checkSocketPaths,
      log,
      giveBack: (sessionId) => jail.closeCell(sessionId),
    });
    this.info = info;
    this.#jail = jail;
    this.#engines = engines;
    this.#networkTools = networkTools;
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
    const { engines, jail } = await openJail(resolved);
    const engine = engines.current;
    const networkTools = await findNetworkTools(jail, cacheFolder);
    const { version } = engine;
    const acceleration = await decideAcceleration({ ...resolved, choice: options.acceleration, jail, engine });
    const supported = { supported: true } as const;
    const abilities = { memorySnapshot: supported, fanOut: supported, pause: supported, network: supported };
    const info = { engine: "qemu", version, acceleration, abilities, walls: jail.walls } as const;
    return new QemuDriver(resolved, info, { jail, engines, networkTools });
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
    const machine = parseMachine(manifest.machine);
    return this.#machines.inNew(sessionId, signal, async (folder, scope) => {
      const memoryPath = join(folder, memoryName);
      const cell = await this.#openCell(sessionId, machine);
      const [network, lowerLayers] = await allSettledOrThrow([
        this.#startNetwork(scope, cell, request.internetAccess),
        prepareLayers({ folder: snapshotFolder, manifest }, folder, this.#options.cacheFolder),
        linkFile(join(snapshotFolder, files.memory.name), memoryPath),
      ]);
      const memory = { name: memoryName, shared: false, sha256: files.memory.sha256 };
      const running = this.#describe(machine, engine, memory, lowerLayers);
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
      const user = this.#jail.userOf(record.sessionId);
      const path = join(await findSockets(record.folder), qmpSocketName);
      qmp = await QmpClient.connect(path, { deadlineMs: adoptDeadlineMs, owner: user });
      const status = await queryStatus(qmp);
      if (status !== "running" && status !== "paused") {
        log.warn({ status }, "a recorded VM is in no state in which it can go on");
        qmp.close();
        return undefined;
      }
      return new QemuVm({
        record,
        running,
        qmp,
        user,
        removeRemains: () => this.#machines.remove(record, networkGraceMs),
        log,
      });
    } catch (error) {
      qmp?.close();
      log.warn({ error: messageOf(error) }, "a recorded VM runs but cannot be taken over");
      return undefined;
    }
  }

  async discard(record: MachineRecord): Promise<void> {
    await this.#machines.discard(record, networkGraceMs);
  }

  async imagesInUse(): Promise<string[]> {
    const { machinesFolder } = this.#options;
    const folders = (await readdir(machinesFolder)).filter(isSessionId).map((name) => join(machinesFolder, name));
    const running = await Promise.all(folders.map(readRunningMachine));
    return running.map(({ machine }) => machine.baseDisk);
  }

  findStrays(known: ReadonlySet<string>): MachineRecord[] {
    return this.#machines.findStrays(known);
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  async #bootOnce(request: BootRequest, signal?: AbortSignal): Promise<Vm> {
    const { sessionId, kernel, initramfs, snapshot } = request;
    const { cacheFolder } = this.#options;
    const machine = await describeMachine(request, this.info.acceleration);
    return this.#machines.inNew(sessionId, signal, async (folder, scope) => {
      const engine = this.#engines.current;
      const cell = await this.#openCell(sessionId, machine);
      const [network, lowerLayers] = await allSettledOrThrow([
        this.#startNetwork(scope, cell, request.internetAccess),
        snapshot ? prepareLayers(snapshot, folder, cacheFolder) : prepareEmptyLayer(folder, machine, cacheFolder),
      ]);
      const commandLine = await kernelCommandLine(this.info.acceleration, cacheFolder);
      const start = { kind: "boot", kernel, initramfs, commandLine } as const;
      const running = this.#describe(machine, engine, { name: memoryName, shared: true }, lowerLayers);
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
      jail: this.#jail,
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
    const processes = [launched.engine.identity, network.guard];
    const record = { engine: "qemu", sessionId, folder, processes } as const;
    const log = this.#options.log.child({ sessionId });
    const vm = new QemuVm({
      record,
      running,
      qmp,
      childExited: launched.engine.exited,
      user: cell.user,
      removeRemains: () => this.#machines.remove(record, networkGraceMs),
      log,
    });
    scope.defer(() => vm.terminate());
    await waitForNetwork(network);
    if (start.kind === "boot") await waitForInit(qmp, bootLimits, signal);
    else {
      if (start.memoryChanges) await loadDeferred(launched, plan.memory.path, start.memoryChanges);
      await waitUntilRunning(launched, restoreDeadlineMs);
    }
    return vm;
  }

  /** The guest's memory, and what QEMU and the network take besides. */
  #openCell(sessionId: string, { memoryMiB }: QemuMachine): Promise<Cell> {
    return this.#jail.openCell(sessionId, (memoryMiB + engineMemoryMiB) * 2 ** 20);
  }

  async #startNetwork(scope: Scope, cell: Cell, internetAccess: boolean | undefined): Promise<Network> {
    const logPath = join(this.#options.cacheFolder, "network.log");
    const network = await startNetwork(this.#networkTools, cell, logPath, internetAccess ?? true);
    scope.defer(() => network.close());
    return network;
  }

  #describe(
    machine: QemuMachine,
    { version }: QemuEngine,
    memory: RunningMachine["memory"],
    lowerLayers: RunningMachine["lowerLayers"],
  ): RunningMachine {
    return { machine, engineVersion: version, acceleration: this.info.acceleration, memory, lowerLayers };
  }

  /** Device state only fits the very engine, acceleration and CPU that it was taken from. */
  #engineFor(manifest: SnapshotManifest): QemuEngine {
    const { engine, acceleration } = this.info;
    const made = `${manifest.engine} with ${manifest.acceleration}`;
    const here = `${engine} with ${acceleration}`;
    if (made === here) return this.#engines.find(manifest.engineVersion);
    throw new DomainError("failed_precondition", `the snapshot was made by ${made}, and this is ${here}: make it anew`);
  }
}

async function prepareEmptyLayer(folder: string, { diskMiB }: QemuMachine, cacheFolder: string): Promise<[]> {
  await copyLayer(await emptyLayer(cacheFolder, diskMiB), join(folder, diskName));
  return [];
}

/** Like `Promise.all`, but a failure waits for the others, so that no file of theirs appears after the clean-up. */
async function allSettledOrThrow<T extends readonly unknown[]>(
  promises: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  await Promise.allSettled(promises);
  return Promise.all(promises);
}
