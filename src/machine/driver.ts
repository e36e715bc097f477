/**
 * The contract between the runtime and the engines. A driver turns prepared snapshots into running VMs; it knows
 * processes, sockets and snapshot files, and nothing of sandboxes, SQL or HTTP. A call of an ability that the engine
 * lacks throws `unsupported` with the engine's name and the reason.
 */
import { randomUUID } from "node:crypto";
import type { Duplex } from "node:stream";
import type { Acceleration, EngineName, MachineRecord, MachineShape } from "../types.ts";

export type { MachineRecord } from "../types.ts";

/** Whether an engine can do something on this host, and if not, why. */
export type Ability = { readonly supported: true } | { readonly supported: false; readonly reason: string };

/** One wall between an engine and its host. */
export interface Wall {
  readonly name: string;
  readonly stands: boolean;
  /** What the wall keeps in, or why it does not stand. */
  readonly detail: string;
}

/** The class of the processor that an emulator gives guests on every host. */
export const emulatedClass = "emulated";

export interface EngineInfo {
  readonly engine: EngineName;
  readonly version: string;
  readonly acceleration: Acceleration;
  /** Why the daemon runs this engine. An engine itself does not know. */
  readonly chosenBecause?: string;
  /** The class of the processor that new guests see. Absent: every host of the engine has the same. */
  readonly cpuClass?: string;
  /** How long a guest's kernel needs for deferred work before a template is saved. Absent: a second. */
  readonly restMs?: number;
  readonly abilities: Readonly<Record<"memorySnapshot" | "fanOut" | "pause" | "network", Ability>>;
  /** What stands between an engine that its guest has taken over and the host. Absent: the engine says nothing of it. */
  readonly walls?: readonly Wall[];
}

/** One file of a snapshot. `sha256` is the digest that `snapshot-files.ts` defines, over blocks of 1 MiB. */
export interface SnapshotFile {
  readonly name: string;
  readonly sizeBytes: number;
  readonly sha256: string;
}

/** The files of a machine that goes on where it was. */
export interface MachineFiles {
  readonly memory: SnapshotFile;
  readonly devices: SnapshotFile;
  readonly disk: SnapshotFile;
}

/** The files of a machine that boots when it comes back. */
export interface DiskFiles {
  readonly memory?: undefined;
  readonly disk: SnapshotFile;
}

/** What a snapshot stands on outside of its folder: an image by its content, in manifests of format 1 by its path. */
export type SnapshotParent = SnapshotFile | { readonly path: string };

/** The files of one durable snapshot: a folder with `manifest.json`, memory, device state and disk layer. */
export interface SnapshotManifest {
  /** New ones have format 2. */
  readonly formatVersion: 1 | 2;
  readonly engine: EngineName;
  readonly engineVersion: string;
  readonly acceleration: Acceleration;
  readonly cpuModel: string;
  /** The hosts that can go on with it, in the engine's words. Absent in format 1. */
  readonly cpuClass?: string;
  readonly shape: MachineShape;
  /** The guest kernel's boot id when the snapshot was made. A restored guest has the same one. */
  readonly bootId: string;
  readonly createdAtMs: number;
  /** The images that this snapshot needs: backing disks, kernel. */
  readonly parents: readonly SnapshotParent[];
  readonly files: MachineFiles | DiskFiles;
  /**
   * The pages in which the memory differs from `files.memory`, which other snapshots have too. Absent: no page differs.
   */
  readonly memoryChanges?: SnapshotFile;
  /** What an engine has besides of a machine that goes on, by the engine's names. Other snapshots may have it too. */
  readonly moreFiles?: readonly SnapshotFile[];
  /**
   * Disk layers below `files.disk`, top first: links to files that other snapshots have too, so that each stands alone.
   */
  readonly lowerLayers: readonly SnapshotFile[];
  /** Facts that the engine needs to rebuild the same machine; opaque outside of the engine. */
  readonly machine: Readonly<Record<string, unknown>>;
}

export interface BootRequest {
  readonly sessionId: string;
  readonly shape: MachineShape;
  readonly kernel: string;
  readonly initramfs: string;
  /** Read-only base image that all machines share. A snapshot's own one is used if there is a snapshot. */
  readonly baseDisk: string;
  /** Boots from the disk of this snapshot, and with its shape. Absent: from an empty layer over the base image. */
  readonly snapshot?: { readonly folder: string; readonly manifest: SnapshotManifest };
  /** As in {@link RestoreRequest}. */
  readonly internetAccess?: boolean;
}

export interface RestoreRequest {
  readonly sessionId: string;
  /** Folder of the snapshot. */
  readonly snapshotFolder: string;
  readonly manifest: SnapshotManifest;
  /** As {@link Vm.setInternetAccess}, from the beginning. Default true. */
  readonly internetAccess?: boolean;
}

/** What became of a VM's network: `restarts` changes each time it broke and was replaced. */
export type NetworkHealth = { readonly at: "up"; readonly restarts: number } | { readonly at: "gone" };

export type VmExit = { readonly reason: "terminated" } | { readonly reason: "died"; readonly detail: string };

export interface SaveOptions {
  readonly bootId: string;
  /** The VM is terminated next, unless the save fails: its files may be handed over, not copied. Default false. */
  readonly isLast?: boolean;
  /** False: only the disk is saved. Default true. */
  readonly memory?: boolean;
}

export interface Vm {
  readonly record: MachineRecord;
  /** Resolves when the VM's process is gone, for whatever reason. `detail` quotes the tail of the engine's own log. */
  readonly exited: Promise<VmExit>;
  /** False once the VM's process is gone. A VM that stands still or does not answer is alive. */
  readonly isAlive: boolean;
  /**
   * The host's error because of which the engine lets the VM stand still: its disk takes no write, or gives no read.
   * Undefined while there is none. {@link resume} tries it again.
   */
  readonly blockedBy: string | undefined;
  /** Bytes of the host's disk that the VM's own disk layer takes. @throws when the VM has ended */
  diskBytes(): Promise<number>;
  /** Processor time that the VM has used, in milliseconds; undefined when its process does not tell. */
  cpuTimeMs(): number | undefined;
  /** A fresh connection of the guest link. A VM has one at a time; opening another ends the first. */
  openGuestLink(signal?: AbortSignal): Promise<Duplex>;
  /**
   * Lets the VM stand still. Idempotent.
   * @param deadlineMs how long the engine may take. An engine that stands still itself does it once it goes on.
   * @throws DomainError `deadline_exceeded`, `machine_failed`
   */
  pause(deadlineMs?: number): Promise<void>;
  /** Lets the VM go on. Idempotent. Parameter and errors are those of {@link pause}. */
  resume(deadlineMs?: number): Promise<void>;
  /**
   * Saves memory, devices and disk of one pause window into `folder` (new, on the state disk) and returns its manifest,
   * already written and synced. The VM is paused before and stays paused: `resume` or `terminate` it.
   * @throws DomainError `not_ready` when the host saves nothing now (the screen of a Mac is locked), although the
   *   machine is well; `machine_failed`, `disk_pressure`, also for a VM with {@link blockedBy}. The VM stays paused and
   *   nothing is left in `folder`.
   */
  saveSnapshot(folder: string, options: SaveOptions): Promise<SnapshotManifest>;
  /** Host memory private to this VM (anonymous pages), bytes. */
  privateMemoryBytes(): Promise<number>;
  /**
   * Lets packets of the guest out, or keeps them in and cuts the connections that are open. Packets to the host itself
   * and to private networks are never let out. Idempotent.
   * @throws DomainError `machine_failed`, `unsupported`
   */
  setInternetAccess(allowed: boolean): Promise<void>;
  /** Undefined when the engine does not tell, or the VM has no network. Quick. */
  networkHealth(): NetworkHealth | undefined;
  /** Ends the VM and removes its processes, sockets and folder. Idempotent; rejects if something cannot be removed. */
  terminate(): Promise<void>;
  /** Lets go of the VM, which goes on: closes the descriptors that this process has of it. */
  release(): Promise<void>;
}

/** A copy of an engine that this host keeps, and that new machines do not get. */
export interface KeptEngine {
  readonly folder: string;
  /** Whether it is in the cache, which other state folders may use. */
  readonly isCached: boolean;
  /** Wall clock, when it was made. */
  readonly atMs: number;
}

export interface VmDriver extends AsyncDisposable {
  readonly info: EngineInfo;
  /** Boots a kernel. For making templates and for disk-only resumes, never for creating a sandbox. */
  boot(request: BootRequest, signal?: AbortSignal): Promise<Vm>;
  /**
   * Resolves when the VM runs; the guest link can be opened at once. A restore that fails leaves nothing.
   * @throws DomainError `not_ready` when the host restores nothing now, although the snapshot is whole
   */
  restore(request: RestoreRequest, signal?: AbortSignal): Promise<Vm>;
  /**
   * Takes over a VM that an earlier daemon started; undefined if the VM is gone, or has ended in its process.
   * @throws DomainError `deadline_exceeded`, `machine_failed` when the process lives and does not answer now
   */
  adopt(record: MachineRecord): Promise<Vm | undefined>;
  /** Removes the remains of a recorded VM: processes that match their identity, sockets, folder. Idempotent. */
  discard(record: MachineRecord): Promise<void>;
  /**
   * Images and engines outside of the machines' folders that machines here need.
   * @throws when a machine's folder does not say
   */
  filesInUse(): Promise<string[]>;
  /** The paths of images and of the engine that a snapshot stands on. What is nowhere is left out. */
  pathsOf(snapshot: Pick<SnapshotManifest, "parents" | "engineVersion">): Promise<string[]>;
  keptEngines(): Promise<KeptEngine[]>;
  /** Removes one of {@link keptEngines}, which nothing needs. */
  removeEngine(folder: string): Promise<void>;
  /** Machines that run here and of which only their processes tell. @param known sessions that are accounted for */
  findStrays(known: ReadonlySet<string>): MachineRecord[];
}

/** The name of one machine: new for every machine, never reused; short, because it is part of socket paths. */
export function newSessionId(): string {
  return randomUUID().replaceAll("-", "");
}

/** Whether {@link newSessionId} could have made the name. */
export const isSessionId = (name: string) => /^[0-9a-f]{32}$/.test(name);
