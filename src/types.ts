/** The value types that every layer may use, without behaviour and without dependencies. */

/** The engines. A manifest, a machine record and a snapshot's facts name one of them. */
export const engineNames = ["qemu", "gvisor", "vz"] as const;
export type EngineName = (typeof engineNames)[number];
export const accelerations = ["kvm", "tcg", "hvf", "none"] as const;
export type Acceleration = (typeof accelerations)[number];

/** The resources of a machine: one sandbox's share of the host. */
export interface MachineShape {
  readonly vcpuCount: number;
  readonly memoryMiB: number;
  readonly diskMiB: number;
}

/** The kind of a file-system entry in a guest. A link has the kind of its target; a broken link is `unknown`. */
export type EntryKind = "unknown" | "file" | "directory" | "other";

export interface FileEntry {
  readonly name: string;
  readonly kind: EntryKind;
  /** The absolute path as the client asked for it; links in it are not resolved. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Permission bits, 0o7777. */
  readonly mode: number;
  readonly owner: string;
  readonly group: string;
  /** Nanoseconds since the epoch. */
  readonly modifiedNs: bigint;
  /** The target of a symbolic link; other entries have none. */
  readonly linkTarget?: string;
  /** Extended attributes `user.e2b.<name>`. */
  readonly attributes: Readonly<Record<string, string>>;
}

export type FileEventKind = "create" | "write" | "remove" | "rename" | "chmod";

export interface FileEvent {
  /** Relative to the watched folder. */
  readonly name: string;
  readonly kind: FileEventKind;
  readonly entry?: FileEntry;
}

export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** A command as a client asks for it. */
export interface ProcessSpec {
  readonly command: string;
  readonly args: readonly string[];
  readonly envs: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Absent: the sandbox's default user. */
  readonly user?: string;
  /** The client's name for the process. */
  readonly tag?: string;
  /** False: the process reads end of file at once. */
  readonly stdin: boolean;
  readonly terminal?: TerminalSize;
}

/** How a process ended. `exitCode` is −1 when a signal ended it. */
export interface ProcessEnd {
  readonly exitCode: number;
  readonly exited: boolean;
  /** The number of the signal that ended the process. */
  readonly signal?: number;
}

/** A process that was started through the guest agent, as the agent lists it. */
export interface ProcessInfo {
  readonly pid: number;
  readonly command: string;
  readonly args: readonly string[];
  readonly envs: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly tag?: string;
  readonly terminal: boolean;
  /** Present once the process has ended; the agent remembers the end for 30 s. */
  readonly end?: ProcessEnd;
}

export interface GuestMetrics {
  readonly cpuCount: number;
  readonly cpuBusyTicks: number;
  readonly cpuTotalTicks: number;
  readonly memTotalBytes: number;
  readonly memUsedBytes: number;
  readonly memCacheBytes: number;
  readonly diskTotalBytes: number;
  readonly diskUsedBytes: number;
}

/**
 * The record of a machine, with which a later daemon finds the machine again. A process is signalled only when it
 * matches its record. The record is plain JSON, because the ledger stores it.
 */
export interface MachineRecord {
  readonly engine: EngineName;
  readonly sessionId: string;
  /** The folder of the machine's sockets, logs and disk layer. */
  readonly folder: string;
  readonly processes: readonly ProcessIdentity[];
  /** The boot id of its guest's kernel. Absent from records of earlier versions, and of a machine that is no sandbox's yet. */
  readonly bootId?: string;
}

/**
 * The identity of a process that the daemon started. A pid may be reused, but not with its start time and executable.
 */
export interface ProcessIdentity {
  readonly role: "vm" | "network";
  readonly pid: number;
  /** Clock ticks since boot (`/proc/PID/stat` field 22), or the platform's equivalent, as a string. */
  readonly startTime: string;
  readonly executable: string;
}

/** The state of a sandbox. Only `ledger/sandboxes.ts` changes it, by compare-and-set. */
export type SandboxState =
  | "creating"
  | "running"
  | "pausing"
  /** The sandbox rests in a snapshot. */
  | "paused"
  /** The machine stands still and waits to be saved, because the host saves nothing at the moment. */
  | "paused_in_memory"
  | "resuming"
  | "terminating"
  | "terminated";

/** The reason why a sandbox ended. */
export type EndReason = "killed" | "stopped" | "expired" | "create_failed" | "machine_died" | "lost";

/** The user and the folder of a guest's processes that name none. */
export interface GuestDefaults {
  readonly user: string;
  /** Empty: the user's home. */
  readonly workdir: string;
}

/** A client's choice of what happens to its sandbox at the deadline, and to requests while the sandbox is paused. */
export interface SandboxLifecycle {
  readonly onTimeout: "kill" | "pause";
  /** Whether a pause at the deadline saves the memory. Without its memory the sandbox boots when it is resumed. */
  readonly keepMemory: boolean;
  /** Whether a request to the paused sandbox resumes it. */
  readonly autoResume: boolean;
  /** The time to live from the sandbox's creation. */
  readonly timeoutMs: number;
}

/** The way of requests to the ports of a sandbox. */
export interface SandboxIngress {
  /** False: a request must have the sandbox's traffic token. */
  readonly allowPublicTraffic: boolean;
  /** The Host that services in the sandbox see, with `${PORT}` for the port; null: the Host that the client sent. */
  readonly maskRequestHost: string | null;
}

/** Why a continuation was saved: a client paused the sandbox, its deadline had come, or its work had ended. */
export type ContinuationReason = "stopped" | "idle" | "exited";

/** A sandbox as the ledger keeps it. */
export interface SandboxRecord {
  readonly id: string;
  readonly templateId: string;
  /** The first alias of its template when it was created. */
  readonly templateAlias: string | null;
  readonly snapshotId: string;
  readonly state: SandboxState;
  readonly metadata: Readonly<Record<string, string>>;
  readonly envs: Readonly<Record<string, string>>;
  /** The template's defaults. The agent has them in its memory, and must be given them after a boot. */
  readonly defaults: GuestDefaults;
  readonly shape: MachineShape;
  readonly allowInternetAccess: boolean;
  readonly ingress: SandboxIngress;
  readonly lifecycle: SandboxLifecycle;
  /** Wall clock, ms since the epoch. */
  readonly startedAtMs: number;
  /** The deadline; for a paused sandbox the time of the pause, and for an ended one the time of the end. */
  readonly endAtMs: number;
  /** The machine that runs the sandbox, once there is one. */
  readonly machine: MachineRecord | null;
  readonly reservationId: string;
  readonly endReason: EndReason | null;
}

/** The spans of a sandbox's life that leave a latency sample. `cold_boot` is a start from a snapshot without memory. */
export type SpanName =
  | "warm_snapshot_restore"
  | "cold_boot"
  | "ready_probe"
  | "command_start"
  | "first_stdout_byte"
  | "start.resume_to_first_stdout_ms"
  | "snapshot_save"
  | "warm_pool_checkout"
  | "kill_delete"
  | "cold_template_build";

/** The origin of a session. `adopted`: an earlier daemon started the machine, or it went on after a failed pause. */
export type SessionOrigin = "create" | "pool" | "resume" | "fork" | "followup" | "adopted";

/** The operation that a span was a part of. An end is named by its reason. */
export type Scenario = SessionOrigin | "refill" | "pause" | "snapshot" | "build" | "base_template" | EndReason;

export interface LatencySample {
  readonly span: SpanName;
  readonly scenario: Scenario;
  readonly durationMs: number;
  readonly engine: EngineName;
  readonly acceleration: Acceleration;
  readonly sandboxId: string | null;
  readonly atMs: number;
}

/** A line of a sandbox's log: about the sandbox, about a command in it, or of a command's output. */
export interface SandboxLogEntry {
  readonly sandboxId: string;
  /** Wall clock, ms since the epoch. */
  readonly atMs: number;
  readonly level: "debug" | "info" | "warn" | "error";
  readonly message: string;
  readonly fields: Readonly<Record<string, string>>;
}
