/**
 * What the host can ask of the agent inside a guest: the typed face of the guest link (`src/guest-agent/README.md`).
 * `link.ts` implements it over any byte stream. Failures reported by the agent are DomainErrors whose `details` hold
 * `{status, errno?, path?}` with the protocol's status name, so that callers can word their own messages.
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
 * A process with this link attached to it. Output has back-pressure: what is not read from `output` is not taken from
 * the guest beyond one window, and the process waits.
 */
export interface AttachedProcess {
  readonly pid: number;
  /** Ends when the process has ended and its output is drained; throws when the link breaks. Read it once. */
  readonly output: AsyncIterable<OutputChunk>;
  /** How it ended. Rejects with `cancelled` after `detach`, with `machine_failed` when the link breaks. */
  readonly end: Promise<ProcessEnd>;
  /** Sends input (stdin or keystrokes); resolves when the agent's window took it. Rejects when the process has ended. */
  write(bytes: Uint8Array): Promise<void>;
  /** Closes stdin. */
  closeStdin(): void;
  resize(size: TerminalSize): void;
  /** Loses interest; the process goes on. */
  detach(): void;
}

export interface ReadStream {
  readonly entry: FileEntry;
  /** The bytes, with back-pressure; leaving the loop early cancels the read in the guest. */
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
  /** Whether a folder on a network mount may be watched, where changes made elsewhere go unseen. Default: no. */
  readonly allowNetworkMounts?: boolean;
}

export interface Watch {
  readonly events: AsyncIterable<FileEvent>;
  close(): void;
}

/** Everything that makes a restored VM one particular sandbox; see operation SETUP. */
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
  /** Resolves, never rejects, with the reason when the link is no more. */
  readonly closed: Promise<Error>;

  /** Starts a process; resolves once it runs. */
  exec(spec: ProcessSpec, signal?: AbortSignal): Promise<AttachedProcess>;
  attach(selector: { readonly pid: number } | { readonly tag: string }): Promise<AttachedProcess>;
  listProcesses(): Promise<ProcessInfo[]>;
  signal(pid: number, signal: number): Promise<void>;

  stat(path: string, user?: string): Promise<FileEntry>;
  read(path: string, options?: { user?: string; offset?: number; length?: number }): Promise<ReadStream>;
  /** Writes everything `source` yields; aborting the signal or a failing source cancels it in the guest. */
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
  /** Closes the link; the guest goes on. */
  close(): void;
}
