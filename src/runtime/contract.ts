/** The contract between the runtime and its callers: what a client asks for and is shown, in the daemon's own words. */
import type { SandboxIngress, SandboxLifecycle, SandboxLogEntry, SandboxRecord } from "../types.ts";

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
  /** For a create that may be sent again: the same key and request are the same sandbox. */
  readonly idempotencyKey?: string | undefined;
  /** Aborts when the client has left: a create that waits for capacity gives up then. */
  readonly signal?: AbortSignal | undefined;
}

/** Whether the memory of a sandbox is saved by a pause, or restored by a resume. */
export interface MemoryOption {
  /**
   * False: the disk only, and the sandbox boots from it. Default true; a sandbox without a saved memory boots anyway.
   */
  readonly memory?: boolean;
}

export interface ResumeOptions extends MemoryOption {
  /** Added to the variables that the sandbox has, for processes that start from now on. */
  readonly envs?: Readonly<Record<string, string>>;
}

export interface PauseOptions extends MemoryOption {
  /** True: a sandbox is not paused when its guest does not answer. Default false. */
  readonly requireAnswer?: boolean;
}

export interface FollowupRequest {
  readonly timeoutMs: number;
  /** Default: the paused sandbox's. So are `envs`. */
  readonly metadata?: Readonly<Record<string, string>>;
  readonly envs?: Readonly<Record<string, string>>;
}

/** One child of a fork: the sandbox, or why there is none. */
export type ForkOutcome = { readonly view: SandboxView } | { readonly error: unknown };

/** A snapshot that a client took of a sandbox, which is a template like any other. */
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

/**
 * A sandbox as clients may see it. `state` never shows a transition: a sandbox that ends is not found, one that is
 * being paused is paused.
 */
export interface SandboxView {
  readonly record: SandboxRecord;
  readonly state: "running" | "paused";
  readonly accessToken: string;
  /** Whether the memory was saved, and not the disk alone; undefined unless the sandbox is paused. */
  readonly keptMemory?: boolean;
  /** True while its machine stands still, because the host's disk has no room for what it writes. */
  readonly waitsForDisk?: true;
}

export interface ListSandboxesQuery {
  readonly states: ReadonlySet<"running" | "paused">;
  /** A sandbox matches when it has every one of these pairs. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly templateId?: string;
  readonly startedAfterMs?: number;
  readonly order: "asc" | "desc";
  readonly limit: number;
  /** The last row of the previous page: its start time and id. */
  readonly after?: { readonly startedAtMs: number; readonly id: string };
}

export interface ListSandboxesPage {
  readonly sandboxes: readonly SandboxView[];
  /** Set when there are more rows. */
  readonly next: { readonly startedAtMs: number; readonly id: string } | undefined;
  /** All running sandboxes that match, whatever the page. */
  readonly totalRunning: number;
}

/** The lines of a sandbox's log that a client asks for. */
export interface SandboxLogsQuery {
  readonly fromMs?: number | undefined;
  readonly toMs?: number | undefined;
  /** The lowest level. Default: all levels. */
  readonly level?: SandboxLogEntry["level"] | undefined;
  /** A text that the message contains, to the letter. Empty: any message. */
  readonly search: string;
  readonly order: "asc" | "desc";
  readonly limit: number;
}

/** One 5-second sample of the resources that a sandbox uses. */
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
  /** The operation that the span was a part of. */
  readonly scenario: string;
  readonly engine: string;
  readonly acceleration: string;
  readonly n: number;
  readonly p50Ms: number;
  readonly p90Ms: number;
  readonly p95Ms: number;
  readonly p99Ms: number;
}

/** A budget: how much of it sandboxes and builds use, how much warm entries use, and how much there is. */
export interface BudgetUse {
  readonly active: number;
  readonly warm: number;
  readonly limit: number;
}

export interface CapacityView {
  readonly budgets: Readonly<Record<"sandboxes" | "vcpuCount" | "memoryMiB" | "diskMiB", BudgetUse>>;
  /** Warm machines by state. */
  readonly warmPool: { readonly ready: number; readonly warming: number; readonly leaving: number };
  /** Sandboxes that are paused and hold capacity all the same, because the host saves nothing at the moment. */
  readonly pausedInMemory: number;
  /** Running sandboxes whose machines stand still until the host's disk has room. */
  readonly waitingForDisk: number;
  /** How many creates wait for capacity. */
  readonly waiting: number;
}

/** What all sandboxes together did, around one moment. */
export interface TeamMetricSample {
  readonly atMs: number;
  readonly concurrentSandboxes: number;
  /** Since the sample before. */
  readonly startsPerSecond: number;
}
