/**
 * The guest agent as the daemon sees it: the typed face of the guest link (`src/guest-agent/README.md`). `connect.ts`
 * implements it over any byte stream. A failure that the agent reports is a DomainError whose `details` have the status
 * by its name in the protocol, and where they apply `errno` and `path`, so that callers can word their own messages.
 *
 * This folder holds the host side of the guest link: `link/` carries frames and streams, and knows nothing of
 * operations; `operations/` makes the agent's methods of them. It may call the common ground (errors, types, clock,
 * log) alone.
 */
import type {
  FileEntry,
  FileEvent,
  GuestMetrics,
  ProcessEnd,
  ProcessInfo,
  ProcessSpec,
  TerminalSize,
} from "../types.ts";

export type OutputChannel = "stdout" | "stderr" | "terminal";

export interface OutputChunk {
  readonly channel: OutputChannel;
  readonly bytes: Uint8Array;
}

/**
 * A process with this link attached to it. Output has back-pressure: beyond one window, no output is taken from the
 * guest that the caller does not read, and the process waits.
 */
export interface AttachedProcess {
  readonly pid: number;
  /** Ends when the process has ended and its output is drained; throws when the link breaks. Read it once. */
  readonly output: AsyncIterable<OutputChunk>;
  /**
   * The end of the process. Rejects with `cancelled` after `detach`, and with `machine_failed` when the link breaks.
   */
  readonly end: Promise<ProcessEnd>;
  /**
   * Sends input (stdin or keystrokes); resolves when the agent's window has taken it. Rejects when the process has
   * ended.
   */
  write(bytes: Uint8Array): Promise<void>;
  /** Closes stdin. */
  closeStdin(): void;
  resize(size: TerminalSize): void;
  /** Detaches from the process, which goes on. */
  detach(): void;
}

export interface ReadStream {
  readonly entry: FileEntry;
  /** The bytes of the file, with back-pressure. Leaving the loop early cancels the read in the guest. */
  readonly bytes: AsyncIterable<Uint8Array>;
}

export interface WriteOptions {
  readonly user?: string;
  readonly mode?: number;
  /** Replaces the whole set of `user.e2b.` attributes. */
  readonly attributes?: Readonly<Record<string, string>>;
}

/** A byte connection to a TCP port inside the guest. A Duplex so that HTTP clients can use it as a socket. */
export type GuestConnection = import("node:stream").Duplex;

export interface WatchOptions {
  readonly user?: string;
  readonly recursive: boolean;
  readonly includeEntry: boolean;
  /** Allows a folder on a network mount, where changes by other machines go unseen. Default: false. */
  readonly allowNetworkMounts?: boolean;
}

export interface Watch {
  readonly events: AsyncIterable<FileEvent>;
  /**
   * Resolves once the events of every change up to now have been taken from `events`; at once for an agent of before
   * that could not tell. It stays pending when the watch ends first, or when nobody takes events.
   */
  caughtUp(): Promise<void>;
  close(): void;
}

/** The settings that make a restored machine one particular sandbox (operation SETUP). */
export interface GuestSetup {
  readonly timeNs?: bigint;
  /** At least 32 bytes for the guest's random pool. */
  readonly entropy?: Uint8Array;
  readonly hostname?: string;
  /** Replaces the global environment. */
  readonly envs?: Readonly<Record<string, string>>;
  readonly defaultUser?: string;
  readonly defaultCwd?: string;
  readonly files?: readonly { readonly path: string; readonly content: string; readonly mode: number }[];
}

export interface GuestAgent {
  readonly agentVersion: string;
  /** The guest kernel's boot id: the same after a restore, another after a boot. */
  readonly bootId: string;
  /** Resolves with the reason when the link has ended; never rejects. */
  readonly closed: Promise<Error>;
  /** How many bytes have come from the guest over this link: every one of them is a sign of life. */
  readonly receivedBytes: number;

  /** Starts a process; resolves once the process runs. */
  exec(spec: ProcessSpec, signal?: AbortSignal): Promise<AttachedProcess>;
  attach(selector: { readonly pid: number } | { readonly tag: string }): Promise<AttachedProcess>;
  listProcesses(): Promise<ProcessInfo[]>;
  signal(pid: number, signal: number): Promise<void>;

  stat(path: string, user?: string): Promise<FileEntry>;
  read(path: string, options?: { user?: string; offset?: number; length?: number }): Promise<ReadStream>;
  /** Writes everything that `source` yields. An aborted signal or a failing source cancels the write in the guest. */
  write(
    path: string,
    source: AsyncIterable<Uint8Array>,
    options?: WriteOptions,
    signal?: AbortSignal,
  ): Promise<FileEntry>;
  /** Entries in walk order, parents before children. */
  listDirectory(path: string, depth: number, user?: string): AsyncIterable<FileEntry>;
  makeDirectory(path: string, user?: string): Promise<FileEntry>;
  move(source: string, destination: string, user?: string): Promise<FileEntry>;
  remove(path: string, user?: string): Promise<void>;
  compose(sources: readonly string[], destination: string, user?: string): Promise<FileEntry>;
  watch(path: string, options: WatchOptions): Promise<Watch>;

  dial(port: number, signal?: AbortSignal): Promise<GuestConnection>;
  setup(setup: GuestSetup): Promise<void>;
  metrics(): Promise<GuestMetrics>;
  ping(signal?: AbortSignal): Promise<void>;
  sync(): Promise<void>;
  shutdown(deadlineMs: number): Promise<void>;
  /** Closes the link. The guest goes on. */
  close(): void;
}
