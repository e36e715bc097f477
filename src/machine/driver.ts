/**
 * The contract between the runtime and the engines. A driver turns prepared snapshots into running VMs; it knows
 * processes, sockets and snapshot files, and nothing of sandboxes, SQL or HTTP. An ability an engine lacks throws
 * `unsupported` with the engine's name and the reason.
 */
import { randomUUID } from "node:crypto";
import type { Duplex } from "node:stream";
import type { Acceleration, EngineName, MachineRecord, MachineShape } from "../types.ts";

export type { MachineRecord } from "../types.ts";

/** Whether an engine can do something on this host, and if not, why. */
export type Ability = { readonly supported: true } | { readonly supported: false; readonly reason: string };

export interface EngineInfo {
  readonly engine: EngineName;
  readonly version: string;
  readonly acceleration: Acceleration;
  readonly abilities: Readonly<Record<"memorySnapshot" | "fanOut" | "pause" | "network", Ability>>;
}

/** One file of a snapshot. `sha256` is the digest that `snapshot-files.ts` defines, over blocks of 1 MiB. */
export interface SnapshotFile {
  readonly name: string;
  readonly sizeBytes: number;
  readonly sha256: string;
}

/** Of a machine that goes on where it was. */
export interface MachineFiles {
  readonly memory: SnapshotFile;
  readonly devices: SnapshotFile;
  readonly disk: SnapshotFile;
}

/** Of a machine that boots when it comes back. */
export interface DiskFiles {
  readonly memory?: undefined;
  readonly disk: SnapshotFile;
}

/** The files of one durable snapshot: a folder with `manifest.json`, memory, device state and disk layer. */
export interface SnapshotManifest {
  readonly formatVersion: 1;
  readonly engine: EngineName;
  readonly engineVersion: string;
  readonly acceleration: Acceleration;
  readonly cpuModel: string;
  readonly shape: MachineShape;
  /** The guest kernel's boot id when the snapshot was made: after a restore it is the same. */
  readonly bootId: string;
  readonly createdAtMs: number;
  /** Snapshots and images this one needs, by absolute path: backing disks, kernel. */
  readonly dependsOn: readonly string[];
  readonly files: MachineFiles | DiskFiles;
  /** The pages in which the memory differs from `files.memory`, which other snapshots have too; absent: in none. */
  readonly memoryChanges?: SnapshotFile;
  /** Disk layers below `files.disk`, top first: links to files other snapshots have too, so that each stands alone. */
  readonly lowerLayers: readonly SnapshotFile[];
  /** What the engine needs to rebuild the same machine; opaque to everybody else. */
  readonly machine: Readonly<Record<string, unknown>>;
}

export interface BootRequest {
  readonly sessionId: string;
  readonly shape: MachineShape;
  readonly kernel: string;
  readonly initramfs: string;
  /** Read-only base image, shared by all; that of the snapshot, if there is one. */
  readonly baseDisk: string;
  /** Boots from the disk of this snapshot, and with its shape. Default: an empty layer over the base image. */
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

export type VmExit = { readonly reason: "terminated" } | { readonly reason: "died"; readonly detail: string };

export interface SaveOptions {
  readonly bootId: string;
  /** The VM is terminated next, unless this fails: what it has may be handed over, not copied. Default false. */
  readonly isLast?: boolean;
  /** False: the disk only. Default true. */
  readonly memory?: boolean;
}

export interface Vm {
  readonly record: MachineRecord;
  /** Resolves when the VM's process is gone, whoever ended it. `detail` quotes the tail of the engine's own log. */
  readonly exited: Promise<VmExit>;
  /** A fresh connection of the guest link. A VM has one at a time; opening another ends the first. */
  openGuestLink(signal?: AbortSignal): Promise<Duplex>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  /**
   * Saves memory, devices and disk of one pause window into `folder` (new, on the state disk) and returns its manifest,
   * already written and synced. The VM is paused before and stays paused: `resume` or `terminate` it.
   * @throws DomainError `not_ready` when the host saves nothing at the moment, although the machine is well
   */
  saveSnapshot(folder: string, options: SaveOptions): Promise<SnapshotManifest>;
  /** Host memory private to this VM (anonymous pages), bytes. */
  privateMemoryBytes(): Promise<number>;
  /**
   * Whether packets of the guest get out. Without it they do not, and connections that were open are cut. What is never
   * let out is the engine's to know: the host itself and private networks. Idempotent.
   * @throws DomainError `machine_failed`, `unsupported`
   */
  setInternetAccess(allowed: boolean): Promise<void>;
  /** Ends the VM and removes its processes, sockets and folder. Idempotent; rejects if anything could not be removed. */
  terminate(): Promise<void>;
  /** Lets go of the VM without ending it: closes descriptors of this process. */
  release(): Promise<void>;
}

export interface VmDriver extends AsyncDisposable {
  readonly info: EngineInfo;
  /** Boots a kernel. For making templates and for disk-only resumes, never for creating a sandbox. */
  boot(request: BootRequest, signal?: AbortSignal): Promise<Vm>;
  /**
   * Resolves when the VM runs; the guest link can be opened at once. Cleans up after itself on failure.
   * @throws DomainError `not_ready` when the host restores nothing at the moment, although the snapshot is whole
   */
  restore(request: RestoreRequest, signal?: AbortSignal): Promise<Vm>;
  /** Takes over a VM that an earlier daemon started; undefined if it is no more. */
  adopt(record: MachineRecord): Promise<Vm | undefined>;
  /** Removes whatever a recorded VM left: processes that match their identity, sockets, folder. Idempotent. */
  discard(record: MachineRecord): Promise<void>;
  /** Images outside of their folders that machines here stand on. @throws when one of them does not say */
  imagesInUse(): Promise<string[]>;
  /** Machines that run here, of which nothing but their processes tells. @param known sessions that are accounted for */
  findStrays(known: ReadonlySet<string>): MachineRecord[];
}

/** The name of one machine: new for every machine, never reused; short, because it is part of socket paths. */
export function newSessionId(): string {
  return randomUUID().replaceAll("-", "");
}

/** Whether a name may be one of {@link newSessionId}. */
export const isSessionId = (name: string) => /^[0-9a-f]{32}$/.test(name);
