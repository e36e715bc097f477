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
import { MachinesFolder } from "../machines-folder.ts";
import { isRunning } from "../processes.ts";
import { type AccelerationChoice, decideAcceleration } from "./acceleration.ts";
import { checkSocketPaths, qmpSocketName } from "./arguments.ts";
import { describeMachine, kernelCommandLine } from "./boot.ts";
import { copyLayer, diskName, emptyLayer, linkFile, prepareLayers } from "./disk.ts";
import {
  engineCommand,
  type LaunchPlan,
  launchEngine,
  loadDeferred,
  queryStatus,
  readEngineVersion,
  waitUntilRunning,
} from "./launch.ts";
import {
  parseMachine,
  type QemuMachine,
  type RunningMachine,
  readRunningMachine,
  writeRunningMachine,
} from "./machine.ts";
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
const memoryName = "memory.img";

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

export class QemuDriver implements VmDriver {
  readonly info: QemuInfo;
  readonly #options: QemuDriverOptions;
  readonly #networkTools: NetworkTools;
  readonly #machines: MachinesFolder;

  private constructor(options: QemuDriverOptions, info: QemuInfo, networkTools: NetworkTools) {
    const { machinesFolder, log } = options;
    this.#options = options;
    const program = engineCommand;
    this.#machines = new MachinesFolder({ engine: "qemu", path: machinesFolder, program, checkSocketPaths, log });
    this.info = info;
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
    const [version, tools] = await Promise.all([readEngineVersion(), findNetworkTools(cacheFolder)]);
    const resolved = { ...options, machinesFolder: folder, cacheFolder };
    const acceleration = await decideAcceleration({
      ...resolved,
      choice: options.acceleration,
      engineVersion: version,
    });
    const supported = { supported: true } as const;
    const abilities = { memorySnapshot: supported, fanOut: supported, pause: supported, network: supported };
    return new QemuDriver(resolved, { engine: "qemu", version, acceleration, abilities }, tools);
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
    this.#checkFits(manifest);
    const machine = parseMachine(manifest.machine);
    return this.#machines.inNew(sessionId, signal, async (folder, scope) => {
      const memoryPath = join(folder, memoryName);
      const [network, lowerLayers] = await allSettledOrThrow([
        this.#startNetwork(scope, request.internetAccess),
        prepareLayers({ folder: snapshotFolder, manifest }, folder, this.#options.cacheFolder),
        linkFile(join(snapshotFolder, files.memory.name), memoryPath),
      ]);
      const memory = { name: memoryName, shared: false, sha256: files.memory.sha256 };
      const running = this.#describe(machine, memory, lowerLayers);
      const devices = join(snapshotFolder, files.devices.name);
      const changes = manifest.memoryChanges && join(snapshotFolder, manifest.memoryChanges.name);
      const start = { kind: "restore", devices, ...(changes ? { memoryChanges: changes } : {}) } as const;
      return this.#launch(scope, folder, running, network, start, signal);
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
      qmp = await QmpClient.connect(join(record.folder, qmpSocketName), { deadlineMs: adoptDeadlineMs });
      const status = await queryStatus(qmp);
      if (status !== "running" && status !== "paused") {
        log.warn({ status }, "a recorded VM is in no state in which it can go on");
        qmp.close();
        return undefined;
      }
      return new QemuVm({ record, running, qmp, log });
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
      const [network, lowerLayers] = await allSettledOrThrow([
        this.#startNetwork(scope, request.internetAccess),
        snapshot ? prepareLayers(snapshot, folder, cacheFolder) : prepareEmptyLayer(folder, machine, cacheFolder),
      ]);
      const commandLine = await kernelCommandLine(this.info.acceleration, cacheFolder);
      const start = { kind: "boot", kernel, initramfs, commandLine } as const;
      return this.#launch(
        scope,
        folder,
        this.#describe(machine, { name: memoryName, shared: true }, lowerLayers),
        network,
        start,
        signal,
      );
    });
  }

  async #launch(
    scope: Scope,
    folder: string,
    running: RunningMachine,
    network: Network,
    start: LaunchPlan["start"],
    signal?: AbortSignal,
  ): Promise<Vm> {
    const { machine, acceleration, memory, lowerLayers } = running;
    const plan: LaunchPlan = {
      folder,
      machine,
      acceleration,
      memory: { path: join(folder, memory.name), shared: memory.shared },
      layers: [diskName, ...lowerLayers.map(({ name }) => name)].map((name) => join(folder, name)),
      network,
      start,
    };
    await writeRunningMachine(folder, running);
    const launched = await launchEngine(plan, restoreDeadlineMs, signal);
    const { engine, qmp } = launched;
    const sessionId = folder.slice(folder.lastIndexOf("/") + 1);
    const processes = [engine.identity, network.guard];
    const record = { engine: "qemu", sessionId, folder, processes } as const;
    const log = this.#options.log.child({ sessionId });
    const vm = new QemuVm({ record, running, qmp, childExited: engine.exited, log });
    scope.defer(() => vm.terminate());
    await waitForNetwork(network);
    if (start.kind === "boot") await waitForInit(qmp, bootLimits, signal);
    else {
      if (start.memoryChanges) await loadDeferred(launched, plan.memory.path, start.memoryChanges);
      await waitUntilRunning(launched, restoreDeadlineMs);
    }
    return vm;
  }

  async #startNetwork(scope: Scope, internetAccess: boolean | undefined): Promise<Network> {
    const logPath = join(this.#options.cacheFolder, "network.log");
    const network = await startNetwork(this.#networkTools, logPath, internetAccess ?? true);
    scope.defer(() => network.close());
    return network;
  }

  #describe(
    machine: QemuMachine,
    memory: RunningMachine["memory"],
    lowerLayers: RunningMachine["lowerLayers"],
  ): RunningMachine {
    const { version, acceleration } = this.info;
    return { machine, engineVersion: version, acceleration, memory, lowerLayers };
  }

  /** Device state only fits the very engine, acceleration and CPU it was taken from. */
  #checkFits(manifest: SnapshotManifest): void {
    const { engine, version, acceleration } = this.info;
    const made = `${manifest.engine} ${manifest.engineVersion} with ${manifest.acceleration}`;
    const here = `${engine} ${version} with ${acceleration}`;
    if (made === here) return;
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
