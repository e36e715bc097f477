/**
 * The engine `qemu`: QEMU's `microvm` machine on Linux, with KVM where that works and TCG elsewhere. Boots make
 * templates; every sandbox is restored by mapping a snapshot's memory privately and loading its device state.
 */
import { execFile } from "node:child_process";
import { mkdir, readdir, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import { Scope } from "../../scope.ts";
import type { MachineRecord } from "../../types.ts";
import { explainDiskFull } from "../disk-full.ts";
import {
  type BootRequest,
  type EngineInfo,
  isSessionId,
  type RestoreRequest,
  type SnapshotManifest,
  type Vm,
  type VmDriver,
} from "../driver.ts";
import { findProcessesIn, isRunning, nameIn } from "../processes.ts";
import { removeRemains } from "../remains.ts";
import { type AccelerationChoice, decideAcceleration } from "./acceleration.ts";
import { checkSocketPaths, qmpSocketName } from "./arguments.ts";
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
import {
  findNetworkTools,
  type Network,
  type NetworkTools,
  networkCommandLine,
  startNetwork,
  waitForNetwork,
} from "./network.ts";
import { QmpClient } from "./qmp.ts";
import { buildTool } from "./tools.ts";
import { QemuVm } from "./vm.ts";
import { waitForInit } from "./watchdog.ts";

const run = promisify(execFile);

/**
 * CPU models by acceleration. The default one under TCG lacks SSE4 and AVX2, and software built for x86-64-v2 dies of
 * an illegal instruction; the features taken away are those TCG lacks and would warn about at every start.
 */
const cpuModels = {
  tcg: "Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid",
  kvm: "host",
} as const;

/**
 * `panic=-1` reboots at once, which ends QEMU. `mitigations=off`: a guest belongs to one client, who is root in it; what
 * keeps it from others is the VM. Page-table isolation would flush the emulated TLB at every system call. `nowatchdog`: a
 * guest that a busy host does not let run is not stuck, and an idle one is not to be woken for asking.
 */
const kernelCommandLine = `console=ttyS0 reboot=t panic=-1 mitigations=off nowatchdog ${networkCommandLine}`;

const bootAttempts = 4;
/** On an idle host TCG is through in a second and never silent for half of one. */
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
  /** What the probe of `acceleration: "auto"` boots. */
  readonly kernel: string;
  readonly initramfs: string;
  readonly log: Logger;
}

export class QemuDriver implements VmDriver {
  readonly info: EngineInfo;
  readonly #options: QemuDriverOptions;
  readonly #networkTools: NetworkTools;

  private constructor(options: QemuDriverOptions, info: EngineInfo, networkTools: NetworkTools) {
    this.#options = options;
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
        this.#options.log.warn({ sessionId, attempt, error: error.message }, "a boot hung; trying again");
      }
    }
  }

  async restore(request: RestoreRequest, signal?: AbortSignal): Promise<Vm> {
    const { sessionId, snapshotFolder, manifest } = request;
    const { files } = manifest;
    if (!files.memory) throw new DomainError("failed_precondition", `${snapshotFolder} has no memory: boot from it`);
    this.#checkFits(manifest);
    const machine = parseMachine(manifest.machine);
    return this.#inNewFolder(sessionId, signal, async (folder, scope) => {
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
    this.#checkOwned(record);
    const engine = record.processes.find((process) => process.role === "vm");
    if (!engine || !isRunning(engine)) return undefined;
    const log = this.#options.log.child({ sessionId: record.sessionId });
    let qmp: QmpClient | undefined;
    try {
      const running = await readRunningMachine(record.folder);
      qmp = await QmpClient.connect(join(record.folder, qmpSocketName), { deadlineMs: adoptDeadlineMs });
      const status = await queryStatus(qmp);
      if (status !== "running" && status !== "paused") {
        log.warn({ status }, "a recorded VM is not in a state to go on");
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
    this.#checkOwned(record);
    // A daemon that died while it started the VM recorded nothing. The network of such a VM ends with its engine.
    const unrecorded = findProcessesIn(record.folder, "vm", engineCommand).filter(
      ({ pid }) => !record.processes.some((process) => process.pid === pid),
    );
    const engineFirst = [...record.processes, ...unrecorded].sort((one, other) => other.role.localeCompare(one.role));
    await removeRemains({ ...record, processes: engineFirst }, networkGraceMs);
  }

  async imagesInUse(): Promise<string[]> {
    const { machinesFolder } = this.#options;
    const folders = (await readdir(machinesFolder)).filter(isSessionId).map((name) => join(machinesFolder, name));
    const running = await Promise.all(folders.map(readRunningMachine));
    return running.map(({ machine }) => machine.baseDisk);
  }

  findStrays(known: ReadonlySet<string>): MachineRecord[] {
    const { machinesFolder } = this.#options;
    return findProcessesIn(machinesFolder, "vm", engineCommand).flatMap((process) => {
      const sessionId = nameIn(machinesFolder, process.pid);
      if (!sessionId || known.has(sessionId)) return [];
      return [{ engine: "qemu", sessionId, folder: join(machinesFolder, sessionId), processes: [process] } as const];
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  async #bootOnce(request: BootRequest, signal?: AbortSignal): Promise<Vm> {
    const { sessionId, kernel, initramfs, snapshot } = request;
    const { cacheFolder } = this.#options;
    const machine = await this.#describeMachine(request);
    return this.#inNewFolder(sessionId, signal, async (folder, scope) => {
      const [network, lowerLayers] = await allSettledOrThrow([
        this.#startNetwork(scope, request.internetAccess),
        snapshot ? prepareLayers(snapshot, folder, cacheFolder) : prepareEmptyLayer(folder, machine, cacheFolder),
      ]);
      const commandLine = `${kernelCommandLine}${await this.#clockOptions()}`;
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

  /** Makes the VM's folder, and removes it again when `fill` fails, after whatever `fill` put into the scope. */
  async #inNewFolder(
    sessionId: string,
    signal: AbortSignal | undefined,
    fill: (folder: string, scope: Scope) => Promise<Vm>,
  ): Promise<Vm> {
    signal?.throwIfAborted();
    if (!/^[A-Za-z0-9_-]+$/.test(sessionId)) throw new DomainError("invalid_argument", `bad session id ${sessionId}`);
    const folder = join(this.#options.machinesFolder, sessionId);
    checkSocketPaths(folder);
    await mkdir(folder, { mode: 0o700 }).catch((error: unknown) => {
      const problem = new DomainError("already_exists", `no new machine: ${messageOf(error)}`, {}, { cause: error });
      throw explainDiskFull(problem, "start a machine", this.#options.machinesFolder);
    });
    const scope = new Scope();
    scope.defer(() => removeRemains({ engine: "qemu", sessionId, folder, processes: [] }, 0));
    try {
      const vm = await fill(folder, scope);
      signal?.throwIfAborted();
      scope.release();
      return vm;
    } catch (error) {
      await scope.close().catch((cleanUpError: unknown) => {
        this.#options.log.error({ sessionId, error: messageOf(cleanUpError) }, "a failed start left something behind");
      });
      throw explainDiskFull(error, "start a machine", this.#options.machinesFolder);
    }
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
    if (acceleration !== "kvm" && acceleration !== "tcg") throw new DomainError("internal", "an unknown acceleration");
    return { machine, engineVersion: version, acceleration, memory, lowerLayers };
  }

  async #describeMachine({ snapshot, ...request }: BootRequest): Promise<QemuMachine> {
    const saved = snapshot && parseMachine(snapshot.manifest.machine);
    const { shape, baseDisk } = saved ? { shape: saved, baseDisk: saved.baseDisk } : request;
    const { size } = await stat(baseDisk).catch((error: unknown) => {
      throw new DomainError("not_found", `no base disk: ${messageOf(error)}`, {}, { cause: error });
    });
    return {
      deviceSet: 1,
      cpuModel: this.info.acceleration === "kvm" ? cpuModels.kvm : cpuModels.tcg,
      vcpuCount: shape.vcpuCount,
      memoryMiB: shape.memoryMiB,
      diskMiB: Math.max(shape.diskMiB, Math.ceil(size / 2 ** 20)),
      baseDisk: resolve(baseDisk),
    };
  }

  /**
   * Under TCG the kernel is told the frequency of its time-stamp counter: it measures it against an emulated timer,
   * which fails when the host is busy, and then it waits for ticks that nobody sends, or gives up the counter as its
   * clock later. `tsc=reliable`: nor does it compare the two afterwards.
   */
  async #clockOptions(): Promise<string> {
    if (this.info.acceleration !== "tcg") return "";
    const { stdout } = await run(await buildTool("tsc-frequency", this.#options.cacheFolder));
    return ` tsc_early_khz=${Number.parseInt(stdout, 10)} tsc=reliable`;
  }

  /** Device state only fits the very engine, acceleration and CPU it was taken from. */
  #checkFits(manifest: SnapshotManifest): void {
    const { engine, version, acceleration } = this.info;
    const made = `${manifest.engine} ${manifest.engineVersion} with ${manifest.acceleration}`;
    const here = `${engine} ${version} with ${acceleration}`;
    if (made === here) return;
    throw new DomainError("failed_precondition", `the snapshot was made by ${made}, and this is ${here}: make it anew`);
  }

  /** A record comes from a database: nothing outside of the machines' folder is ever removed because of one. */
  #checkOwned(record: MachineRecord): void {
    if (record.engine === "qemu" && dirname(resolve(record.folder)) === this.#options.machinesFolder) return;
    throw new DomainError("invalid_argument", `${record.folder} is no machine of this engine`);
  }
}

async function prepareEmptyLayer(folder: string, { diskMiB }: QemuMachine, cacheFolder: string): Promise<[]> {
  await copyLayer(await emptyLayer(cacheFolder, diskMiB), join(folder, diskName));
  return [];
}

/** Like `Promise.all`, but a failure waits for the others: what they make must not appear after it was cleaned up. */
async function allSettledOrThrow<T extends readonly unknown[]>(
  promises: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  await Promise.allSettled(promises);
  return Promise.all(promises);
}
