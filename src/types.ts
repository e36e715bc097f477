/** Value types that every layer may use. No behaviour, no dependencies. */

/** Every engine there is; a manifest, a machine record and a snapshot's facts name one of them. */
export const engineNames = ["qemu", "vz"] as const;
export type EngineName = (typeof engineNames)[number];
export const accelerations = ["kvm", "tcg", "hvf", "none"] as const;
export type Acceleration = (typeof accelerations)[number];

/** What a machine is given. One sandbox's share of the host. */
export interface MachineShape {
  readonly vcpuCount: number;
  readonly memoryMiB: number;
  readonly diskMiB: number;
}

/** What a file-system entry in a guest is. Links report the kind of what they point to; `unknown` is a broken link. */
export type EntryKind = "unknown" | "file" | "directory" | "other";

export interface FileEntry {
  readonly name: string;
  readonly kind: EntryKind;
  /** Absolute path as asked for; links in it are not resolved. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Permission bits, 0o7777. */
  readonly mode: number;
  readonly owner: string;
  readonly group: string;
  /** Nanoseconds since the epoch. */
  readonly modifiedNs: bigint;
  /** Only on symbolic links: where it leads. */
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
  /** The client's name for it. */
  readonly tag?: string;
  /** False: reads end of file at once. */
  readonly stdin: boolean;
  readonly terminal?: TerminalSize;
}

/** How a process ended. `exitCode` is −1 when a signal ended it. */
export interface ProcessEnd {
  readonly exitCode: number;
  readonly exited: boolean;
  /** Number of the signal that ended it. */
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
  /** Present once it has ended; the agent remembers it for 30 s. */
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
 * What a later daemon needs to find a VM again, and what it must match before any process is signalled. Plain JSON:
 * the ledger stores it.
 */
export interface MachineRecord {
  readonly engine: EngineName;
  readonly sessionId: string;
  /** Folder of the VM's sockets, logs and disk layer. */
  readonly folder: string;
  readonly processes: readonly ProcessIdentity[];
}

/** A process that is certainly the one we started: its pid may have been reused, its start time and executable not. */
export interface ProcessIdentity {
  readonly role: "vm" | "network";
  readonly pid: number;
  /** Clock ticks since boot (`/proc/PID/stat` field 22), or the platform's equivalent, as a string. */
  readonly startTime: string;
  readonly executable: string;
}

/** Where a sandbox is in its life. Only `ledger/sandboxes.ts` moves it, by compare-and-set. */
export type SandboxState =
  | "creating"
  | "running"
  | "pausing"
  /** Rests in a snapshot. */
  | "paused"
  /** Its machine stands still and waits to be saved: the host saves nothing at the moment. */
  | "paused_in_memory"
  | "resuming"
  | "terminating"
  | "terminated";

/** Why a sandbox is no more. */
export type EndReason = "killed" | "stopped" | "expired" | "create_failed" | "machine_died" | "lost";

/** As whom and where a guest's processes start that do not say. */
export interface GuestDefaults {
  readonly user: string;
  /** Empty: the user's home. */
  readonly workdir: string;
}

/** What a client wants to become of its sandbox when its time is up, and of requests to it while it is paused. */
export interface SandboxLifecycle {
  readonly onTimeout: "kill" | "pause";
  /** Whether it is paused with its memory then; without, it boots when it comes back. */
  readonly keepMemory: boolean;
  /** A request to the paused sandbox resumes it. */
  readonly autoResume: boolean;
  /** The time to live it was created with. */
  readonly timeoutMs: number;
}

/** How requests get to the ports of a sandbox. */
export interface SandboxIngress {
  /** False: whoever asks must show the sandbox's traffic token. */
  readonly allowPublicTraffic: boolean;
  /** The Host that services in the sandbox see, with `${PORT}` for the port; null: the one that the client sent. */
  readonly maskRequestHost: string | null;
}

/** Why a continuation snapshot was taken: a client paused the sandbox, its time was up, or its work had ended. */
export type ContinuationReason = "stopped" | "idle" | "exited";

/** One sandbox, as the ledger keeps it. */
export interface SandboxRecord {
  readonly id: string;
  readonly templateId: string;
  /** The first alias of its template when it was created. */
  readonly templateAlias: string | null;
  readonly snapshotId: string;
  readonly state: SandboxState;
  readonly metadata: Readonly<Record<string, string>>;
  readonly envs: Readonly<Record<string, string>>;
  /** Of its template: the agent has them in its memory, and must be given them after a boot. */
  readonly defaults: GuestDefaults;
  readonly shape: MachineShape;
  readonly allowInternetAccess: boolean;
  readonly ingress: SandboxIngress;
  readonly lifecycle: SandboxLifecycle;
  /** Wall clock, ms since the epoch. */
  readonly startedAtMs: number;
  /** When its time is up; of a paused one, when it was paused; of an ended one, when it ended. */
  readonly endAtMs: number;
  /** What runs it, once there is something. */
  readonly machine: MachineRecord | null;
  readonly reservationId: string;
  readonly endReason: EndReason | null;
}

/** The spans of a sandbox's life that leave a latency sample: the seed's names, and `cold_boot` of a paused one without memory. */
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

/** How a session came to be. `adopted`: an earlier daemon made it, or it went on after a pause that failed. */
export type SessionOrigin = "create" | "pool" | "resume" | "fork" | "followup" | "adopted";

/** What a span was a part of. Ends are told apart by their reasons. */
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

/** A line of a sandbox's log: what became of it, what a command of it was or wrote. */
export interface SandboxLogEntry {
  readonly sandboxId: string;
  /** Wall clock, ms since the epoch. */
  readonly atMs: number;
  readonly level: "debug" | "info" | "warn" | "error";
  readonly message: string;
  readonly fields: Readonly<Record<string, string>>;
}
