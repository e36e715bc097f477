/**
 * The fake engine is a driver without machines, for unit tests: it keeps the same contract, with delays and failures on
 * order at each step and a count of everything that is open. Its guests are the real agent as a local process, or
 * scripted streams. The fake calls itself `qemu`, because the ledger and manifests know real engines only, with the
 * acceleration `none`, which no real QEMU has: so no number of it can pass for a published one.
 */
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import { DomainError } from "../../../src/errors.ts";
import type {
  Ability,
  BootRequest,
  EngineInfo,
  KeptEngine,
  NetworkHealth,
  RestoreRequest,
  SaveOptions,
  SnapshotManifest,
  Vm,
  VmDriver,
  VmExit,
} from "../../../src/machine/driver.ts";
import { describeFile, publishSnapshot, stagingOf } from "../../../src/machine/snapshot-files.ts";
import type { MachineRecord, MachineShape } from "../../../src/types.ts";
import { type FakeGuest, type GuestPort, openGuestPort } from "./fake-guest.ts";

export type FakeStep =
  | "boot"
  | "restore"
  | "adopt"
  | "discard"
  | "openGuestLink"
  | "pause"
  | "resume"
  | "saveSnapshot"
  | "setInternetAccess"
  | "terminate";

/** The outcome of one call of a step: it ends after `delayMs` and when `gate` has resolved, with `error` or well. */
export interface FakeOutcome {
  readonly delayMs?: number;
  readonly gate?: Promise<unknown>;
  /** What happens before the call ends, such as the death of a machine. */
  readonly act?: () => void;
  readonly error?: Error;
}

type MachineState = { readonly at: "running" } | { readonly at: "paused" } | { readonly at: "gone"; exit: VmExit };

/** A pretended host and its machines, which outlive the driver as QEMU processes outlive the daemon. */
export class FakeHost {
  readonly machines = new Map<string, FakeMachine>();
  /** Whether several machines of one snapshot may run at a time. Tests set it. */
  fanOut: Ability = { supported: true };
  /** Tests set it. */
  engines: (KeptEngine & { readonly version: string })[] = [];
  /** Tests set it. */
  filesInUse: string[] = [];
  /** Guest links that are open now. */
  openLinks = 0;
  readonly #outcomes = new Map<FakeStep, FakeOutcome[]>();
  /** Every step that was called, in order. */
  readonly calls: FakeStep[] = [];

  /** The next calls of `step` have these outcomes, one after the other. Later calls succeed at once. */
  arrange(step: FakeStep, ...outcomes: FakeOutcome[]): void {
    this.#outcomes.set(step, [...(this.#outcomes.get(step) ?? []), ...outcomes]);
  }

  /** Later calls of `step` go well again. */
  forget(step: FakeStep): void {
    this.#outcomes.delete(step);
  }

  /** Plays the next outcome of a step. */
  async play(step: FakeStep, signal?: AbortSignal): Promise<void> {
    this.calls.push(step);
    const outcome = this.#outcomes.get(step)?.shift();
    if (outcome?.delayMs) await delay(outcome.delayMs, undefined, signal ? { signal } : {});
    await outcome?.gate;
    signal?.throwIfAborted();
    outcome?.act?.();
    if (outcome?.error) throw outcome.error;
  }

  /** Ends a machine as a crash of its process would. */
  crash(sessionId: string, detail = "crashed by the test"): void {
    this.machines.get(sessionId)?.end({ reason: "died", detail });
  }
}

/** One pretended VM process. */
class FakeMachine {
  readonly record: MachineRecord;
  readonly shape: MachineShape;
  readonly exited: Promise<VmExit>;
  hasInternetAccess = true;
  /** Settable. */
  cpuTimeMs: number | undefined;
  /** Settable; a resume clears it. */
  blockedBy: string | undefined;
  /** Settable. */
  diskBytes = 0;
  /** Settable. */
  networkHealth: NetworkHealth | undefined;
  /** The folder of the snapshot that it was restored from. */
  restoredFrom: string | undefined;
  readonly #host: FakeHost;
  readonly #port: GuestPort;
  #state: MachineState = { at: "running" };
  #resolveExit: ((exit: VmExit) => void) | undefined;

  constructor(host: FakeHost, record: MachineRecord, shape: MachineShape, port: GuestPort) {
    this.#host = host;
    this.record = record;
    this.shape = shape;
    this.#port = port;
    this.exited = new Promise((resolve) => {
      this.#resolveExit = resolve;
    });
    host.machines.set(record.sessionId, this);
  }

  get at(): MachineState["at"] {
    return this.#state.at;
  }

  /** @throws DomainError `machine_failed` once the machine is gone */
  enter(at: "running" | "paused"): void {
    if (this.#state.at === "gone") throw new DomainError("machine_failed", "the machine is gone");
    this.#state = { at };
  }

  connect(): Duplex {
    if (this.#state.at === "gone") throw new DomainError("machine_failed", "the machine is gone");
    const link = this.#port.connect();
    this.#host.openLinks++;
    link.once("close", () => this.#host.openLinks--);
    return link;
  }

  end(exit: VmExit): void {
    if (this.#state.at === "gone") return;
    this.#state = { at: "gone", exit };
    this.#port.close();
    this.#host.machines.delete(this.record.sessionId);
    this.#resolveExit?.(exit);
  }
}

export interface FakeDriverOptions {
  readonly host: FakeHost;
  /** Each machine gets a folder in it. */
  readonly machinesFolder: string;
  readonly guest: FakeGuest;
}

export class FakeDriver implements VmDriver {
  readonly #options: FakeDriverOptions;

  constructor(options: FakeDriverOptions) {
    this.#options = options;
  }

  get info(): EngineInfo {
    return {
      engine: "qemu",
      version: "1.0.0",
      acceleration: "none",
      abilities: {
        memorySnapshot: { supported: true },
        fanOut: this.#options.host.fanOut,
        pause: { supported: true },
        network: { supported: false, reason: "a pretended machine has no network" },
      },
    };
  }

  async boot(request: BootRequest, signal?: AbortSignal): Promise<Vm> {
    const machine = await this.#start("boot", request.sessionId, request.shape, signal);
    machine.hasInternetAccess = request.internetAccess ?? true;
    return new FakeVm(this.#options.host, machine);
  }

  async restore(request: RestoreRequest, signal?: AbortSignal): Promise<Vm> {
    const { machines, fanOut } = this.#options.host;
    const isInUse = [...machines.values()].some(({ restoredFrom }) => restoredFrom === request.snapshotFolder);
    if (isInUse && !fanOut.supported) throw new DomainError("not_ready", fanOut.reason);
    const machine = await this.#start("restore", request.sessionId, request.manifest.shape, signal);
    machine.restoredFrom = request.snapshotFolder;
    machine.hasInternetAccess = request.internetAccess ?? true;
    return new FakeVm(this.#options.host, machine);
  }

  async adopt(record: MachineRecord): Promise<Vm | undefined> {
    await this.#options.host.play("adopt");
    const machine = this.#options.host.machines.get(record.sessionId);
    return machine && new FakeVm(this.#options.host, machine);
  }

  async discard(record: MachineRecord): Promise<void> {
    await this.#options.host.play("discard");
    this.#options.host.machines.get(record.sessionId)?.end({ reason: "terminated" });
    await rm(record.folder, { recursive: true, force: true });
  }

  async filesInUse(): Promise<string[]> {
    return this.#options.host.filesInUse;
  }

  async pathsOf({ parents, engineVersion }: Pick<SnapshotManifest, "parents" | "engineVersion">): Promise<string[]> {
    const engine = this.#options.host.engines.find(({ version }) => version === engineVersion);
    return [
      ...parents.flatMap((parent) => ("path" in parent ? [parent.path] : [])),
      ...(engine ? [engine.folder] : []),
    ];
  }

  async keptEngines(): Promise<KeptEngine[]> {
    return this.#options.host.engines;
  }

  async removeEngine(folder: string): Promise<void> {
    await rm(folder, { recursive: true });
  }

  findStrays(known: ReadonlySet<string>): MachineRecord[] {
    const machines = [...this.#options.host.machines.values()];
    return machines.map(({ record }) => record).filter(({ sessionId }) => !known.has(sessionId));
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  async #start(
    step: "boot" | "restore",
    sessionId: string,
    shape: MachineShape,
    signal?: AbortSignal,
  ): Promise<FakeMachine> {
    const { host, machinesFolder, guest } = this.#options;
    await host.play(step, signal);
    const folder = join(machinesFolder, sessionId);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const record: MachineRecord = { engine: "qemu", sessionId, folder, processes: [] };
    return new FakeMachine(host, record, shape, openGuestPort(guest));
  }
}

class FakeVm implements Vm {
  readonly record: MachineRecord;
  readonly exited: Promise<VmExit>;
  readonly #host: FakeHost;
  readonly #machine: FakeMachine;
  #link: Duplex | undefined;
  /** The tear-down under way or done; cleared when it failed, so that it can be tried again. */
  #ending: Promise<void> | undefined;

  constructor(host: FakeHost, machine: FakeMachine) {
    this.#host = host;
    this.#machine = machine;
    this.record = machine.record;
    this.exited = machine.exited;
  }

  get isAlive(): boolean {
    return this.#machine.at !== "gone";
  }

  get blockedBy(): string | undefined {
    return this.#machine.blockedBy;
  }

  async diskBytes(): Promise<number> {
    return this.#machine.diskBytes;
  }

  networkHealth(): NetworkHealth | undefined {
    return this.#machine.networkHealth;
  }

  cpuTimeMs(): number | undefined {
    return this.#machine.cpuTimeMs;
  }

  async openGuestLink(signal?: AbortSignal): Promise<Duplex> {
    this.#link?.destroy();
    await this.#host.play("openGuestLink", signal);
    this.#link = this.#machine.connect();
    return this.#link;
  }

  async pause(): Promise<void> {
    await this.#host.play("pause");
    this.#machine.enter("paused");
  }

  async resume(): Promise<void> {
    await this.#host.play("resume");
    this.#machine.enter("running");
    this.#machine.blockedBy = undefined;
  }

  async saveSnapshot(folder: string, options: SaveOptions): Promise<SnapshotManifest> {
    await this.#host.play("saveSnapshot");
    if (this.#machine.at !== "paused") throw new DomainError("invalid_state", "only a paused machine can be saved");
    const staging = stagingOf(folder);
    await mkdir(staging, { recursive: true, mode: 0o700 });
    const names = options.memory === false ? ["disk"] : ["memory", "devices", "disk"];
    await Promise.all(names.map((name) => writeFile(join(staging, name), `fake ${name}`)));
    const disk = await describeFile(staging, "disk");
    const manifest: SnapshotManifest = {
      formatVersion: 2,
      engine: "qemu",
      engineVersion: "1.0.0",
      acceleration: "none",
      cpuModel: "none",
      cpuClass: "none",
      shape: this.#machine.shape,
      bootId: options.bootId,
      createdAtMs: Date.now(),
      parents: [],
      files:
        options.memory === false
          ? { disk }
          : { memory: await describeFile(staging, "memory"), devices: await describeFile(staging, "devices"), disk },
      lowerLayers: [],
      machine: {},
    };
    await publishSnapshot(staging, folder, manifest);
    return manifest;
  }

  async setInternetAccess(allowed: boolean): Promise<void> {
    await this.#host.play("setInternetAccess");
    this.#machine.hasInternetAccess = allowed;
  }

  async privateMemoryBytes(): Promise<number> {
    return 0;
  }

  terminate(): Promise<void> {
    this.#ending ??= this.#terminate().catch((error: unknown) => {
      this.#ending = undefined;
      throw error;
    });
    return this.#ending;
  }

  async release(): Promise<void> {
    this.#link?.destroy();
  }

  async #terminate(): Promise<void> {
    this.#link?.destroy();
    await this.#host.play("terminate");
    this.#machine.end({ reason: "terminated" });
    await rm(this.record.folder, { recursive: true, force: true });
  }
}
