/**
 * This room is the engine `vz`: Apple's Virtualization framework through the signed helper `firkin-vz`, one process per
 * machine. It may call the files of `src/machine/`, and no other engine.
 *
 * The helper meets the framework's demands (`helper-swift/README.md`). The room decides on files and processes.
 */
import { constants } from "node:fs";
import { access, mkdir, mkdtemp, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import { Scope } from "../../scope.ts";
import type { MachineRecord } from "../../types.ts";
import type {
  Ability,
  BootRequest,
  EngineInfo,
  RestoreRequest,
  SnapshotManifest,
  SnapshotParent,
  Vm,
  VmDriver,
} from "../driver.ts";
import { Images } from "../images.ts";
import { MachinesFolder } from "../machines-folder.ts";
import { isRunning } from "../processes.ts";
import { removeRemains } from "../remains.ts";
import { probeFanOut } from "./fan-out.ts";
import { HelperClient } from "./helper-client.ts";
import { type Capability, type Hello, identitySchema, type MachineState } from "./helper-messages.ts";
import { checkSocketPaths, controlSocketName, helperCommand, startHelper } from "./helper-process.ts";
import {
  diskName,
  parseMachine,
  readMachine,
  resolveMachine,
  startOrderOf,
  type VzMachine,
  writeMachine,
} from "./machine.ts";
import { agentPort, VzVm } from "./vm.ts";

/** `panic=-1` reboots at once, which ends the machine. The agent is `/init` and listens at that port. */
const kernelCommandLine = `console=hvc0 panic=-1 quiet firkin.vsock=${agentPort}`;

const helperDeadlineMs = 5000;
/** `VZError.Code.restore`, the framework's only code for a failed restore. */
const restoreRefused = 12;
/** Starts and restores wait for the host's lock while other machines save or restore. */
const startDeadlineMs = 300_000;
/** A helper may be in the middle of a save when the daemon that ordered it is gone. */
const adoptDeadlineMs = 60_000;

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
}

export class VzDriver implements VmDriver {
  readonly info: EngineInfo;
  readonly #options: VzDriverOptions;
  readonly #hello: Hello;
  readonly #images: Images;
  readonly #machines: MachinesFolder;

  private constructor(options: VzDriverOptions, hello: Hello, images: Images, info: EngineInfo) {
    const { machinesFolder, log } = options;
    this.#options = options;
    const program = helperCommand;
    this.#machines = new MachinesFolder({ engine: "vz", path: machinesFolder, program, checkSocketPaths, log });
    this.#hello = hello;
    this.#images = images;
    this.info = info;
  }

  /**
   * Asks a helper for the abilities of this host, and probes fan-out, which only a try can tell.
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
    const abilities = {
      memorySnapshot: toAbility(memorySnapshot),
      fanOut: { supported: false, reason: "not probed yet" } as Ability,
      pause: toAbility(pause),
      network: toAbility(network),
    };
    const { helperVersion, framework, host } = hello;
    // The version is a part of every template's recipe, so an update of the system makes templates anew.
    const version = `${helperVersion} ${framework} ${host.osBuild}`;
    const acceleration = framework === "simulated" ? "none" : "hvf";
    const info = { engine: "vz", version, acceleration, abilities } as const;
    const driver = new VzDriver(resolved, hello, images, info);
    abilities.fanOut = await probeFanOut(driver, { ...resolved, hostId: host.hostId });
    return driver;
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
      const order = { machine: spec, diskSource, ...software };
      const identity = await started.client.request({ op: "start", ...order }, identitySchema, startDeadlineMs);
      const { helperVersion, host } = this.#hello;
      const machine = { deviceSet: 1, vcpuCount, memoryMiB, diskMiB, ...software, ...identity, ...host, helperVersion };
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
      return new VzVm({ record, machine, info: this.info, client, identify: this.#identify });
    } catch (error) {
      client?.close();
      log.warn({ error: messageOf(error) }, "a recorded VM runs but cannot be taken over");
      if (isRunning(helper) && !isDomainError(error, "invalid_state")) throw error;
      return undefined;
    }
  }

  async discard(record: MachineRecord): Promise<void> {
    await this.#machines.discard(record, 0);
  }

  /** None, because every machine's disk is a clone of its own. */
  async imagesInUse(): Promise<string[]> {
    return [];
  }

  pathsOf(parents: readonly SnapshotParent[]): Promise<string[]> {
    return this.#images.pathsOf(parents);
  }

  findStrays(known: ReadonlySet<string>): MachineRecord[] {
    return this.#machines.findStrays(known);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Helpers outlive the daemon, and nothing else is open.
  }

  readonly #identify = (path: string) => this.#images.identify(path);

  /** Starts a helper that ends with its scope, or as soon as the caller gives up. */
  async #startHelper(folder: string, scope: Scope, signal: AbortSignal | undefined) {
    const started = await startHelper(this.#options.helper, folder, { deadlineMs: helperDeadlineMs, signal });
    const record = { engine: "vz", sessionId: "", folder, processes: [started.process.identity] } as const;
    scope.defer(() => removeRemains(record, 0));
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
    return new VzVm({
      record,
      machine,
      info: this.info,
      client,
      identify: this.#identify,
      childExited: process.exited,
    });
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
    return !fanOut.supported && isDomainError(error, "machine_failed") && error.details.number === restoreRefused;
  }
}

/** The greeting of a helper without a machine, which describes the host. */
async function askHelper({ helper, machinesFolder }: VzDriverOptions): Promise<Hello> {
  await access(helper, constants.X_OK).catch((error: unknown) => {
    const problem = `there is no helper at ${helper}. Build it: scripts/setup/build-helper`;
    throw new DomainError("failed_precondition", problem, {}, { cause: error });
  });
  const folder = await mkdtemp(join(machinesFolder, "hello-"));
  const scope = new Scope();
  scope.defer(() => rm(folder, { recursive: true, force: true }));
  try {
    const { client, process } = await startHelper(helper, folder, { deadlineMs: helperDeadlineMs });
    const record = { engine: "vz", sessionId: "hello", folder, processes: [process.identity] } as const;
    scope.defer(() => removeRemains(record, 0));
    scope.defer(() => client.close());
    return client.hello;
  } finally {
    await scope.close();
  }
}

function toAbility(capability: Capability | undefined): Ability {
  if (capability?.supported) return { supported: true };
  return { supported: false, reason: capability?.reason ?? "the helper does not say" };
}

/** The machine's state once no operation is under way. A save that an earlier daemon ordered is waited for. */
function settledState(client: HelperClient): Promise<MachineState> {
  return new Promise((resolve, reject) => {
    const late = new DomainError("deadline_exceeded", `its machine is busy for more than ${adoptDeadlineMs} ms`);
    const timer = setTimeout(() => reject(late), adoptDeadlineMs);
    void client.closed.then(reject);
    void client.closed.then(() => clearTimeout(timer));
    client.onState((state) => {
      if (!["new", "running", "paused", "stopped", "failed"].includes(state)) return;
      clearTimeout(timer);
      resolve(state);
    });
  });
}
