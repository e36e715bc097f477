/** Value types that every layer may use. No behaviour, no dependencies. */

export type EngineName = "qemu" | "vz" | "gvisor" | "fake";
export type Acceleration = "kvm" | "tcg" | "hvf" | "none";

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
