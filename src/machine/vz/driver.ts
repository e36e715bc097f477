/**
 * This room is the engine `vz`: Apple's Virtualization framework through the signed helper `firkin-vz`, one process per
 * machine. It may call the files of `src/machine/`, and no other engine.
 *
 * The helper meets the framework's demands (`helper-swift/README.md`). The room decides on files and processes.
 */
import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import { Scope } from "../../scope.ts";
import type { MachineRecord } from "../../types.ts";
import type { Ability, BootRequest, EngineInfo, RestoreRequest, SnapshotManifest, Vm, VmDriver } from "../driver.ts";
import { Images } from "../images.ts";
import { MachinesFolder } from "../machines-folder.ts";
import { endProcess, isRunning } from "../processes.ts";
import { removeRemains } from "../remains.ts";
import { askHelper, helperDeadlineMs, toAbility } from "./hello.ts";
import { HelperClient, settledState } from "./helper-client.ts";
import { type Hello, identitySchema, isRestoreRefusal, type OptionalDevice } from "./helper-messages.ts";
import {
  checkSocketPaths,
  controlSocketName,
  helperCommand,
  startHelper,
  terminatedGraceMs,
} from "./helper-process.ts";
import { keepAwake } from "./keep-awake.ts";
import {
  devicesIn,
  diskName,
  parseMachine,
  readMachine,
  resolveMachine,
  startOrderOf,
  type VzMachine,
  writeMachine,
} from "./machine.ts";
import { endOrphans } from "./orphans.ts";
import { ProbeLoop } from "./probe-loop.ts";
import { agentPort, VzVm } from "./vm.ts";

/**
 * The agent is `/init` and listens at that port. `panic=-1` resets the machine at once, which is no end for the framework:
 * the guest boots again, and its new boot id tells that the one before it is gone.
 */
const kernelCommandLine = `console=hvc0 panic=-1 quiet firkin.vsock=${agentPort}`;

/** Starts and restores wait for the host's lock while other machines save or restore. */
const startDeadlineMs = 300_000;
const defaultProbeAgainMs = 30_000;

export interface VzDriverOptions {
  /** Each VM gets a folder in it, named after its session. On the volume of the snapshots; a short path. */
  readonly machinesFolder: string;
  readonly cacheFolder: string;
  /** The executable of the helper. */
  readonly helper: string;
  /** The probe of `fanOut` boots this kernel. */
  readonly kernel: string;
  readonly initramfs: string;
  readonly baseDisk: string;
  readonly log: Logger;
  /** Keeps each guest's console in `console.log` of its machine's folder, also in saved machines. Default false. */
  readonly consoles?: boolean;
  /** Keeps an idle Mac awake while the driver is open. Default false. */
  readonly keepAwake?: boolean;
  /** When a host that saves nothing is probed again, ms; each time after twice as long. Default 30 s. */
  readonly probeAgainMs?: number;
  /** Ends machines of the framework that run without a helper. By default those of this Mac; on Linux there are none. */
  readonly endOrphans?: typeof endOrphans;
}

const noOrphans = async () => {};

export class VzDriver implements VmDriver {
  readonly info: EngineInfo;
  readonly #options: VzDriverOptions;
  readonly #hello: Hello;
  readonly #images: Images;
  readonly #machines: MachinesFolder;
  readonly #abilities: Record<keyof EngineInfo["abilities"], Ability>;
  readonly #endOrphans: typeof endOrphans;
  readonly #scope = new Scope();
  #withoutDevices: readonly OptionalDevice[] = [];

  private constructor(options: VzDriverOptions, hello: Hello, images: Images, abilities: EngineInfo["abilities"]) {
    const { machinesFolder, log } = options;
    this.#options = options;
    this.#abilities = { ...abilities };
    this.#endOrphans = options.endOrphans ?? (process.platform === "darwin" ? endOrphans : noOrphans);
    const program = helperCommand;
    this.#machines = new MachinesFolder({ engine: "vz", path: machinesFolder, program, checkSocketPaths, log });
    this.#hello = hello;
    this.#images = images;
    const { helperVersion, framework, host } = hello;
    // The version is a part of every template's recipe, so an update of the system makes templates anew.
    const version = `${helperVersion} ${framework} ${host.osBuild}`;
    const acceleration = framework === "simulated" ? "none" : "hvf";
    this.info = { engine: "vz", version, acceleration, abilities: this.#abilities };
  }

  /**
   * Asks a helper for the abilities of this host, ends machines that run without a helper, and probes what only a try can
   * tell. A host that saves nothing now is a driver that boots, and is probed again.
   * @throws DomainError `failed_precondition` saying what is missing
   */
  static async open(options: VzDriverOptions): Promise<VzDriver> {
    const folder = resolve(options.machinesFolder);
    checkSocketPaths(join(folder, "i".repeat(32)));
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const resolved = { ...options, machinesFolder: folder, cacheFolder: join(resolve(options.cacheFolder), "vz") };
    const hello = await askHelper(resolved);
    const images = await Images.open(resolve(options.cacheFolder), join(resolved.cacheFolder, "images"));
    const { machine, memorySnapshot, pause, network } = hello.capabilities;
    const usable = toAbility(machine);
    if (!usable.supported) throw new DomainError("failed_precondition", `no machine can run here: ${usable.reason}`);
    const driver = new VzDriver(resolved, hello, images, {
      memorySnapshot: toAbility(memorySnapshot),
      fanOut: { supported: false, reason: "not probed yet" },
      pause: toAbility(pause),
      network: toAbility(network),
    });
    try {
      if (resolved.keepAwake) driver.#scope.defer(await keepAwake());
      await driver.#endOrphans(folder, { log: resolved.log });
      const leaveOut = (devices: readonly OptionalDevice[]) => {
        driver.#withoutDevices = devices;
      };
      const loop = new ProbeLoop(driver, { ...resolved, hostId: hello.host.hostId, leaveOut }, driver.#abilities);
      driver.#scope.use(loop);
      await loop.probe(hello, options.probeAgainMs ?? defaultProbeAgainMs);
      return driver;
    } catch (error) {
      await driver[Symbol.asyncDispose]();
      throw error;
    }
  }

  boot(request: BootRequest, signal?: AbortSignal): Promise<Vm> {
    const { sessionId, kernel, initramfs, snapshot } = request;
    const shape = snapshot?.manifest.shape ?? request.shape;
    const diskSource = snapshot ? join(snapshot.folder, snapshot.manifest.files.disk.name) : resolve(request.baseDisk);
    return this.#machines.inNew(sessionId, signal, async (folder, scope) => {
      const started = await this.#startHelper(folder, scope, signal);
      const { vcpuCount, memoryMiB, diskMiB } = shape;
      const software = { kernel: resolve(kernel), initramfs: resolve(initramfs), commandLine: kernelCommandLine };
      const spec = { vcpuCount, memoryMiB, diskMiB, disk: join(folder, diskName) };
      const devices = { hasConsole: this.#options.consoles === true, withoutDevices: [...this.#withoutDevices] };
      const order = { machine: spec, diskSource, ...software, ...devicesIn(folder, devices) };
      const identity = await started.client.request({ op: "start", ...order }, identitySchema, startDeadlineMs);
      const { helperVersion, host } = this.#hello;
      const made = { ...devices, ...software, ...identity, ...host, helperVersion };
      const machine = { deviceSet: 1, vcpuCount, memoryMiB, diskMiB, ...made };
      return this.#finish(folder, parseMachine(machine), started);
    });
  }

  async restore(request: RestoreRequest, signal?: AbortSignal): Promise<Vm> {
    const { sessionId, snapshotFolder, manifest } = request;
    const { memory, disk } = manifest.files;
    if (!memory) throw new DomainError("failed_precondition", `${snapshotFolder} has no memory: boot from it`);
    return this.#machines.inNew(sessionId, signal, async (folder, scope) => {
      const machine = await this.#checkFits(manifest);
      const started = await this.#startHelper(folder, scope, signal);
      const start = startOrderOf(machine, folder, join(snapshotFolder, disk.name));
      const stateFile = join(snapshotFolder, memory.name);
      const restoring = started.client.request({ op: "restore", start, stateFile }, identitySchema, startDeadlineMs);
      await restoring.catch((error: unknown) => {
        throw this.#isInUse(error) ? new DomainError("not_ready", messageOf(error), {}, { cause: error }) : error;
      });
      return this.#finish(folder, machine, started);
    });
  }

  async adopt(record: MachineRecord): Promise<Vm | undefined> {
    this.#machines.checkOwned(record);
    const helper = record.processes.find((process) => process.role === "vm");
    if (!helper || !isRunning(helper)) return undefined;
    const log = this.#options.log.child({ sessionId: record.sessionId });
    let client: HelperClient | undefined;
    try {
      const machine = await readMachine(record.folder);
      client = await HelperClient.connect(join(record.folder, controlSocketName), { deadlineMs: helperDeadlineMs });
      const state = await settledState(client);
      if (state !== "running" && state !== "paused") {
        throw new DomainError("invalid_state", `its machine is ${state}`);
      }
      const endOrphan = this.#orphanEnder(record.sessionId);
      return new VzVm({ record, machine, info: this.info, client, identify: this.#identify, endOrphan });
    } catch (error) {
      client?.close();
      log.warn({ error: messageOf(error) }, "a recorded VM runs but cannot be taken over");
      if (isRunning(helper) && !isDomainError(error, "invalid_state")) throw error;
      return undefined;
    }
  }

  async discard(record: MachineRecord): Promise<void> {
    this.#machines.checkOwned(record);
    await Promise.all(record.processes.map((process) => endProcess(process, terminatedGraceMs)));
    await this.#orphanEnder(record.sessionId)();
    await this.#machines.discard(record, 0);
  }

  /** None, because every machine's disk is a clone of its own. */
  async filesInUse(): Promise<string[]> {
    return [];
  }

  pathsOf({ parents }: Pick<SnapshotManifest, "parents">): Promise<string[]> {
    return this.#images.pathsOf(parents);
  }

  /** None: the engine is a part of the system. */
  async keptEngines(): Promise<[]> {
    return [];
  }

  async removeEngine(): Promise<void> {}

  findStrays(known: ReadonlySet<string>): MachineRecord[] {
    return this.#machines.findStrays(known);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Helpers outlive the daemon.
    await this.#scope.close();
  }

  #orphanEnder(sessionId: string): () => Promise<void> {
    const { machinesFolder, log } = this.#options;
    return () => this.#endOrphans(machinesFolder, { log, name: sessionId });
  }

  readonly #identify = (path: string) => this.#images.identify(path);

  /** Starts a helper that ends with its scope, or as soon as the caller gives up. */
  async #startHelper(folder: string, scope: Scope, signal: AbortSignal | undefined) {
    const started = await startHelper(this.#options.helper, folder, { deadlineMs: helperDeadlineMs, signal });
    const record = { engine: "vz", sessionId: "", folder, processes: [started.process.identity] } as const;
    scope.defer(() => removeRemains(record, 0));
    scope.defer(() => this.#orphanEnder(folder.slice(folder.lastIndexOf("/") + 1))());
    // A restore that is given up is waited for: a helper that is killed may leave its machine running.
    scope.defer(() => endProcess(started.process.identity, terminatedGraceMs));
    scope.defer(() => started.client.close());
    const abort = () => started.client.close();
    signal?.addEventListener("abort", abort, { once: true });
    scope.defer(() => signal?.removeEventListener("abort", abort));
    return started;
  }

  async #finish(folder: string, machine: VzMachine, started: Awaited<ReturnType<typeof startHelper>>): Promise<Vm> {
    await writeMachine(folder, machine);
    const sessionId = folder.slice(folder.lastIndexOf("/") + 1);
    const record = { engine: "vz", sessionId, folder, processes: [started.process.identity] } as const;
    const { client, process } = started;
    const { exited: childExited } = process;
    const parts = { identify: this.#identify, endOrphan: this.#orphanEnder(sessionId), childExited };
    return new VzVm({ record, machine, info: this.info, client, ...parts });
  }

  /** A saved state only fits the host, user and framework that made it. */
  async #checkFits(manifest: SnapshotManifest): Promise<VzMachine> {
    const made = `${manifest.engine} ${manifest.engineVersion}`;
    const here = `${this.info.engine} ${this.info.version}`;
    if (made !== here) {
      const problem = `the snapshot was made by ${made}, and this is ${here}: make it anew`;
      throw new DomainError("failed_precondition", problem);
    }
    const machine = await resolveMachine(manifest, this.#images);
    if (machine.hostId === this.#hello.host.hostId) return machine;
    throw new DomainError("failed_precondition", "the snapshot was made on another host: make it anew");
  }

  /** Where a save is one machine only, the framework refuses a second one with the code of every failed restore. */
  #isInUse(error: unknown): boolean {
    const { fanOut } = this.info.abilities;
    return !fanOut.supported && isRestoreRefusal(error);
  }
}
