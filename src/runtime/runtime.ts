/** The runtime's face towards the routes. */
import type { EngineInfo } from "../machine/driver.ts";
import type { TeamMetricSample } from "../team/team.ts";
import type {
  ContinuationReason,
  LatencySample,
  SandboxIngress,
  SandboxLifecycle,
  SandboxLogEntry,
  SandboxRecord,
} from "../types.ts";
import type { Session } from "./sessions/session.ts";

export interface CreateSandboxRequest {
  /** As the client wrote it: id, alias or alias:tag, already parsed. */
  readonly template: { readonly name: string; readonly tag: string | undefined };
  readonly timeoutMs: number;
  readonly metadata: Readonly<Record<string, string>>;
  readonly envs: Readonly<Record<string, string>>;
  readonly allowInternetAccess: boolean;
  readonly ingress: SandboxIngress;
  readonly lifecycle: Omit<SandboxLifecycle, "timeoutMs">;
}

/** How a create may be repeated, and given up. */
export interface CreateOptions {
  /** Of a create that may come again: the same key and request are the same sandbox. */
  readonly idempotencyKey?: string | undefined;
  /** The client has left: a create that waits for capacity gives up. */
  readonly signal?: AbortSignal | undefined;
}

/** What of a paused sandbox is kept, or comes back. */
export interface MemoryOption {
  /** False: its disk only, and it boots. Default true; of a sandbox that has no memory any more it means nothing. */
  readonly memory?: boolean;
}

export interface ResumeOptions extends MemoryOption {
  /** Over those that the sandbox has, for what is started from now on. */
  readonly envs?: Readonly<Record<string, string>>;
}

export interface PauseOptions extends MemoryOption {
  /** True: a guest that does not answer is not paused. Default false. */
  readonly requireAnswer?: boolean;
}

export interface FollowupRequest {
  readonly timeoutMs: number;
  /** Default: those of the paused sandbox. */
  readonly metadata?: Readonly<Record<string, string>>;
  readonly envs?: Readonly<Record<string, string>>;
}

/** What became of one child of a fork. */
export type ForkOutcome = { readonly view: SandboxView } | { readonly error: unknown };

/** A snapshot that a client took of a sandbox; a template like any other. */
export interface SnapshotView {
  readonly templateId: string;
  /** Its name, if it has one. */
  readonly alias: string | null;
  readonly tag: string;
}

export interface ListSnapshotsQuery {
  readonly sandboxId?: string;
  /** A template's id or alias. */
  readonly name?: string;
  /** Undefined: any. */
  readonly tag?: string | undefined;
  readonly limit: number;
  readonly after?: { readonly createdAtMs: number; readonly position: string };
}

export interface ListSnapshotsPage {
  readonly snapshots: readonly SnapshotView[];
  readonly next: { readonly createdAtMs: number; readonly position: string } | undefined;
}

/** A sandbox as clients may see it. `state` never shows a transition: what is ending is not found, what pauses is paused. */
export interface SandboxView {
  readonly record: SandboxRecord;
  readonly state: "running" | "paused";
  readonly accessToken: string;
  /** Of a paused one that was asked for by its id: whether its memory was saved too, and not its disk alone. */
  readonly keptMemory?: boolean;
}

export interface ListSandboxesQuery {
  readonly states: ReadonlySet<"running" | "paused">;
  /** Every pair must be equal. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly templateId?: string;
  readonly startedAfterMs?: number;
  readonly order: "asc" | "desc";
  readonly limit: number;
  /** Position after which to go on: start time and id of the last row of the previous page. */
  readonly after?: { readonly startedAtMs: number; readonly id: string };
}

export interface ListSandboxesPage {
  readonly sandboxes: readonly SandboxView[];
  /** Set when there are more rows. */
  readonly next: { readonly startedAtMs: number; readonly id: string } | undefined;
  /** All running sandboxes that match, whatever the page. */
  readonly totalRunning: number;
}

/** Which lines of a sandbox's log. */
export interface SandboxLogsQuery {
  readonly fromMs?: number | undefined;
  readonly toMs?: number | undefined;
  /** This one and those above it. Default: all. */
  readonly level?: SandboxLogEntry["level"] | undefined;
  /** What the message contains, to the letter. Empty: anything. */
  readonly search: string;
  readonly order: "asc" | "desc";
  readonly limit: number;
}

/** One 5-second sample of what a sandbox uses. */
export interface SandboxMetricSample {
  readonly atMs: number;
  readonly cpuCount: number;
  readonly cpuUsedPercent: number;
  readonly memUsedBytes: number;
  readonly memTotalBytes: number;
  readonly memCacheBytes: number;
  readonly diskUsedBytes: number;
  readonly diskTotalBytes: number;
}

export interface BenchmarkSummary {
  readonly span: string;
  /** What the span was a part of. */
  readonly scenario: string;
  readonly engine: string;
  readonly acceleration: string;
  readonly n: number;
  readonly p50Ms: number;
  readonly p90Ms: number;
  readonly p95Ms: number;
  readonly p99Ms: number;
}

/** What of a budget is in use, by whom, and how much there is. */
export interface BudgetUse {
  readonly active: number;
  readonly warm: number;
  readonly limit: number;
}

export interface CapacityView {
  readonly budgets: Readonly<Record<"sandboxes" | "vcpuCount" | "memoryMiB" | "diskMiB", BudgetUse>>;
  /** Warm machines by state. */
  readonly warmPool: { readonly ready: number; readonly warming: number; readonly leaving: number };
  /** Sandboxes that are paused and hold capacity all the same: the host saves nothing at the moment. */
  readonly pausedInMemory: number;
  /** Creates that wait for capacity. */
  readonly waiting: number;
}

export interface Runtime {
  readonly engine: EngineInfo;
  /**
   * @throws not_found (template, tag), capacity_exhausted, disk_pressure, not_ready (shutting down), machine_failed;
   *   idempotency_mismatch: the idempotency key had another request; already_exists: its sandbox has ended.
   */
  createSandbox(request: CreateSandboxRequest, options?: CreateOptions): Promise<SandboxView>;
  /**
   * Extends the time of a running sandbox (never shortens); resumes a paused one, which then lives for `timeoutMs`.
   * @throws not_found; as {@link resumeSandbox}.
   */
  connectSandbox(
    id: string,
    timeoutMs: number,
    option?: MemoryOption,
  ): Promise<{ view: SandboxView; resumed: boolean }>;
  /**
   * Saves a running sandbox as a continuation snapshot and gives its capacity back. When it fails the sandbox goes on.
   * On a host that saves nothing at the moment it is paused in memory, keeps its capacity and is saved later.
   * @throws not_found, invalid_state (paused already), disk_pressure, machine_failed, not_ready.
   */
  pauseSandbox(id: string, reason: ContinuationReason, options?: PauseOptions): Promise<void>;
  /**
   * Brings a paused sandbox back under the same id and token. When it fails the sandbox stays paused.
   * @throws not_found, invalid_state (running already), capacity_exhausted, disk_pressure, machine_failed, not_ready.
   */
  resumeSandbox(id: string, timeoutMs: number, options?: ResumeOptions): Promise<SandboxView>;
  /**
   * For a request to a sandbox without a session: resumes it if it is paused and wants that.
   * @returns undefined when it does not, or is not there. @throws as {@link resumeSandbox}.
   */
  resumeForTraffic(id: string): Promise<Session | undefined>;
  /** Paused sandboxes that a request resumes. Whoever asks has yet to prove that it may. */
  resumableByTraffic(): Iterable<SandboxView>;
  /**
   * Makes `count` sandboxes that go on from the same moment as this one, which stops for it and goes on too.
   * @throws not_found, invalid_state (paused), invalid_argument (more than may exist), disk_pressure, machine_failed,
   *   unsupported (one save is one machine here).
   */
  forkSandbox(id: string, options: { count: number; timeoutMs: number }): Promise<ForkOutcome[]>;
  /**
   * Makes a template of a running sandbox, which stops for a moment.
   * @throws not_found (paused too), invalid_argument (the name is taken), disk_pressure, machine_failed.
   */
  snapshotSandbox(id: string, name?: { name: string; tag: string | undefined }): Promise<SnapshotView>;
  /** Newest first. */
  listSnapshots(query: ListSnapshotsQuery): ListSnapshotsPage;
  /** Whether a name or id stands for a snapshot of a sandbox, and not for a template that was built. */
  isSandboxSnapshot(name: string): boolean;
  /** @throws not_found, unsupported (a template that was built), failed_precondition (in use). */
  deleteSnapshot(name: string, tag: string | undefined): Promise<void>;
  /**
   * Makes a new sandbox that goes on where a paused one stopped; that one stays paused.
   * @returns also why the paused one was paused
   * @throws not_found, invalid_state (not paused); as {@link createSandbox}.
   */
  followUpSandbox(id: string, request: FollowupRequest): Promise<{ view: SandboxView; reason: string }>;
  /** @throws not_found. */
  getSandbox(id: string): SandboxView;
  listSandboxes(query: ListSandboxesQuery): ListSandboxesPage;
  /** Ends it for good; resolves when the client may be told. @throws not_found. */
  killSandbox(id: string): Promise<void>;
  /**
   * The seed's RuntimeSessionStop: asks the guest to end its processes and to write everything to its disk, ends them by
   * force after `deadlineMs`, and then ends the sandbox. Resolves when its processes are gone; again, and of one that has
   * ended, it does nothing.
   * @throws not_found: there never was such a sandbox, or it is forgotten.
   */
  stopSandbox(id: string, deadlineMs: number): Promise<void>;
  /** Sets the end to now + `timeoutMs`; may shorten. 0 ends or pauses it now. @throws not_found, of a paused one too. */
  setSandboxTimeout(id: string, timeoutMs: number): Promise<void>;
  /**
   * Gives a running sandbox the internet, or cuts it off, with every connection that is open; it stays so.
   * @throws not_found (paused too), machine_failed: it is as it was.
   */
  setSandboxInternetAccess(id: string, allowed: boolean): Promise<void>;
  /** Extend-only. @throws not_found. */
  refreshSandbox(id: string, durationMs: number): Promise<void>;
  /** Samples of the last hours, oldest first. @throws not_found. */
  sandboxMetrics(id: string, range: { fromMs?: number; toMs?: number }): SandboxMetricSample[];
  /**
   * What became of a sandbox and of its commands, of one that has ended too as long as it is remembered.
   * @throws not_found.
   */
  sandboxLogs(id: string, query: SandboxLogsQuery): SandboxLogEntry[];
  /** Since the daemon started, of the last hours, oldest first. */
  teamMetrics(range: { fromMs?: number; toMs?: number }): TeamMetricSample[];
  /** The template a name or id stands for; undefined when there is none. */
  findTemplate(name: string): { id: string; aliases: readonly string[] } | undefined;
  benchmarks(): BenchmarkSummary[];
  /** The newest 200 samples of one sandbox, oldest first. @throws not_found. */
  sandboxLatency(id: string): LatencySample[];
  capacity(): CapacityView;
  /** The live session of a sandbox, or undefined when it is unknown, paused or ending. */
  findSession(sandboxId: string): Session | undefined;
  findSessionByAccessToken(accessToken: string): Session | undefined;
  /** Live sessions, for finding the one a signed URL belongs to. */
  liveSessions(): Iterable<Session>;
}
