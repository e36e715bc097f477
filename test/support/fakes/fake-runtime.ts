/** The fake runtime has no machines: sandboxes are rows in memory, and time stands still unless a test moves it. */
import { newSandboxId } from "../../../src/e2b/ids.ts";
import { DomainError } from "../../../src/errors.ts";
import type { EngineInfo } from "../../../src/machine/driver.ts";
import type {
  BenchmarkSummary,
  CapacityView,
  CreateSandboxRequest,
  FollowupRequest,
  ForkOutcome,
  ListSandboxesPage,
  ListSandboxesQuery,
  ListSnapshotsPage,
  ListSnapshotsQuery,
  MemoryOption,
  ResumeOptions,
  SandboxLogsQuery,
  SandboxMetricSample,
  SandboxView,
  SnapshotView,
  TeamMetricSample,
} from "../../../src/runtime/contract.ts";
import type { Runtime } from "../../../src/runtime/runtime.ts";
import type { Session } from "../../../src/runtime/sessions/session.ts";
import type { ContinuationReason, LatencySample, SandboxLogEntry, SandboxRecord } from "../../../src/types.ts";

const supported = { supported: true } as const;
const templateId = "rki5dems9wqfm4r03t7g";

export class FakeRuntime implements Runtime {
  readonly engine: EngineInfo = {
    engine: "qemu",
    version: "1",
    acceleration: "none",
    abilities: { memorySnapshot: supported, fanOut: supported, pause: supported, network: supported },
  };
  nowMs = Date.parse("2026-01-01T00:00:00.000Z");
  /** Thrown by the next call, once. */
  nextError: unknown;
  /** Of every sandbox. */
  readonly latency: LatencySample[] = [];
  /** What was asked for, newest last. */
  readonly created: CreateSandboxRequest[] = [];
  readonly #snapshots: (SnapshotView & { readonly sandboxId: string })[] = [];
  readonly pauseReasons: ContinuationReason[] = [];
  /** Of every pause, resume and connect. */
  readonly memoryOptions: (MemoryOption | undefined)[] = [];
  /** Deadlines of stops, in order. */
  readonly stops: number[] = [];
  readonly logLines: SandboxLogEntry[] = [];
  readonly teamSamples: TeamMetricSample[] = [];
  readonly samples = new Map<string, SandboxMetricSample[]>();
  /** Gives the session of a sandbox; a test may replace it. Default: no sandbox has one. */
  findSession: (id: string) => Session | undefined = () => undefined;
  readonly #views = new Map<string, SandboxView>();

  readonly registry: Runtime["registry"] = {
    get: (id) => this.#get(id),
    list: (query) => this.#list(query),
    session: (id) => this.findSession(id),
    sessionByAccessToken: () => undefined,
    sessions: () => [],
  };
  readonly creates: Runtime["creates"] = { create: (request) => this.#create(request) };
  readonly pauses: Runtime["pauses"] = { pause: (...asked) => this.#pauseFor(...asked) };
  readonly resumes: Runtime["resumes"] = {
    connect: (...asked) => this.#connect(...asked),
    resume: (...asked) => this.#resume(...asked),
  };
  readonly traffic: Runtime["traffic"] = {
    resumeForTraffic: async () => undefined,
    resumableByTraffic: () => [],
  };
  readonly ends: Runtime["ends"] = {
    kill: async (id) => this.#remove(id),
    stop: async (id, deadlineMs) => {
      this.#remove(id);
      this.stops.push(deadlineMs);
    },
  };
  readonly deadlines: Runtime["deadlines"] = {
    set: (...asked) => this.#setTimeout(...asked),
    refresh: (...asked) => this.#refresh(...asked),
  };
  readonly internetAccess: Runtime["internetAccess"] = { set: (...asked) => this.#setInternetAccess(...asked) };
  readonly forks: Runtime["forks"] = {
    fork: (...asked) => this.#fork(...asked),
    followUp: (...asked) => this.#followUp(...asked),
  };
  readonly snapshots: Runtime["snapshots"] = {
    take: (...asked) => this.#takeSnapshot(...asked),
    list: (query) => this.#listSnapshots(query),
    has: (name) => this.#snapshots.some(({ templateId, alias }) => templateId === name || alias === name),
    remove: (...asked) => this.#removeSnapshot(...asked),
  };
  readonly observations: Runtime["observations"] = {
    metrics: (...asked) => this.#metrics(...asked),
    logs: (...asked) => this.#logs(...asked),
    latency: (id) => {
      this.#get(id);
      return this.latency;
    },
  };
  readonly team: Runtime["team"] = {
    samples: ({ fromMs = 0, toMs = Number.MAX_SAFE_INTEGER }) =>
      this.teamSamples.filter(({ atMs }) => atMs >= fromMs && atMs <= toMs),
  };

  async #create(request: CreateSandboxRequest): Promise<SandboxView> {
    this.#mayFail();
    const { name, tag = "default" } = request.template;
    if (!this.findTemplate(name)) throw new DomainError("not_found", `template '${name}' not found`);
    if (tag !== "default") throw new DomainError("not_found", `tag '${tag}' does not exist for template '${name}'`);
    this.created.push(request);
    const record: SandboxRecord = {
      id: newSandboxId(),
      templateId,
      templateAlias: "base",
      snapshotId: "s",
      state: "running",
      metadata: request.metadata,
      envs: request.envs,
      defaults: { user: "user", workdir: "" },
      shape: { vcpuCount: 2, memoryMiB: 512, diskMiB: 4096 },
      allowInternetAccess: request.allowInternetAccess,
      ingress: request.ingress,
      lifecycle: { ...request.lifecycle, timeoutMs: request.timeoutMs },
      startedAtMs: this.nowMs,
      endAtMs: this.nowMs + request.timeoutMs,
      machine: null,
      reservationId: "r",
      endReason: null,
    };
    return this.#put({ record, state: "running", accessToken: `token-of-${record.id}` });
  }

  async #connect(
    id: string,
    timeoutMs: number,
    option?: MemoryOption,
  ): Promise<{ view: SandboxView; resumed: boolean }> {
    this.memoryOptions.push(option);
    this.#mayFail();
    const before = this.#get(id);
    const endAtMs = Math.max(before.record.endAtMs, this.nowMs + timeoutMs);
    const record: SandboxRecord = { ...before.record, state: "running", endAtMs };
    const { accessToken } = before;
    return { view: this.#put({ record, state: "running", accessToken }), resumed: before.state === "paused" };
  }

  async #pauseFor(id: string, reason: ContinuationReason, option?: MemoryOption): Promise<void> {
    this.memoryOptions.push(option);
    if (this.#get(id).state === "paused") {
      throw new DomainError("invalid_state", `Error pausing sandbox - sandbox '${id}' is already paused`);
    }
    this.pauseReasons.push(reason);
    this.pause(id);
    this.#put({ ...this.#get(id), keptMemory: option?.memory ?? true });
  }

  async #resume(id: string, timeoutMs: number, { envs, ...option }: ResumeOptions = {}): Promise<SandboxView> {
    const { view, resumed } = await this.#connect(id, timeoutMs, option);
    if (resumed) return this.#put({ ...view, record: { ...view.record, envs: { ...view.record.envs, ...envs } } });
    throw new DomainError("invalid_state", `Sandbox ${id} is already running`);
  }

  /** The last child has no room. */
  async #fork(id: string, { count, timeoutMs }: { count: number; timeoutMs: number }): Promise<ForkOutcome[]> {
    const { record, state } = this.#get(id);
    if (state === "paused") throw new DomainError("invalid_state", `Sandbox ${id} is paused: resume it first`);
    const { metadata, envs, allowInternetAccess, ingress, lifecycle } = record;
    const template = { name: "base", tag: undefined };
    const request = { template, timeoutMs, metadata, envs, allowInternetAccess, ingress, lifecycle };
    const children = Array.from({ length: count - 1 }, async () => ({ view: await this.#create(request) }));
    return [...(await Promise.all(children)), { error: new DomainError("capacity_exhausted", "no room") }];
  }

  async #takeSnapshot(id: string, name?: { name: string; tag: string | undefined }): Promise<SnapshotView> {
    this.#get(id);
    const made = {
      templateId: `template${this.#snapshots.length}`,
      alias: name?.name ?? null,
      tag: name?.tag ?? "default",
    };
    this.#snapshots.push({ ...made, sandboxId: id });
    return made;
  }

  #listSnapshots({ sandboxId, name, tag, limit, after }: ListSnapshotsQuery): ListSnapshotsPage {
    const matching = this.#snapshots.filter(
      (each) =>
        (sandboxId ?? each.sandboxId) === each.sandboxId &&
        (name === undefined || name === each.alias || name === each.templateId) &&
        (tag ?? each.tag) === each.tag,
    );
    const from = after ? Number(after.position) + 1 : 0;
    const snapshots = matching.slice(from, from + limit);
    const last = from + snapshots.length - 1;
    const more = matching.length > last + 1;
    return { snapshots, next: more ? { createdAtMs: this.nowMs, position: String(last) } : undefined };
  }

  async #removeSnapshot(name: string, tag = "default"): Promise<void> {
    const at = this.#snapshots.findIndex((each) => [each.templateId, each.alias].includes(name) && each.tag === tag);
    if (at < 0) throw new DomainError("not_found", `template '${name}:${tag}' not found`);
    this.#snapshots.splice(at, 1);
  }

  async #followUp(id: string, request: FollowupRequest): Promise<{ view: SandboxView; reason: string }> {
    const { record, state } = this.#get(id);
    if (state === "running") throw new DomainError("invalid_state", `Sandbox ${id} is running`);
    const { metadata, envs, allowInternetAccess, ingress, lifecycle } = { ...record, ...request };
    const template = { name: "base", tag: undefined };
    const { timeoutMs } = request;
    const options = { template, timeoutMs, metadata, envs, allowInternetAccess, ingress, lifecycle };
    return { view: await this.#create(options), reason: this.pauseReasons.at(-1) ?? "stopped" };
  }

  #get(id: string): SandboxView {
    this.#mayFail();
    const view = this.#views.get(id);
    if (view) return view;
    throw new DomainError("not_found", `Sandbox "${id}" doesn't exist or you don't have access to it`);
  }

  #list(query: ListSandboxesQuery): ListSandboxesPage {
    this.#mayFail();
    const sign = query.order === "asc" ? 1 : -1;
    const wanted = Object.entries(query.metadata);
    const matching = [...this.#views.values()]
      .filter(({ record, state }) => {
        if (!query.states.has(state)) return false;
        if (query.templateId !== undefined && query.templateId !== record.templateId) return false;
        if (query.startedAfterMs !== undefined && record.startedAtMs < query.startedAfterMs) return false;
        return wanted.every(([key, value]) => record.metadata[key] === value);
      })
      .sort((a, b) => sign * comparePosition(a.record, b.record));
    const { after } = query;
    const rest = after ? matching.filter(({ record }) => sign * comparePosition(record, after) > 0) : matching;
    const sandboxes = rest.slice(0, query.limit);
    const last = sandboxes.at(-1)?.record;
    const next = last && rest.length > sandboxes.length ? { startedAtMs: last.startedAtMs, id: last.id } : undefined;
    return { sandboxes, next, totalRunning: matching.filter(({ state }) => state === "running").length };
  }

  #remove(id: string): void {
    this.#get(id);
    this.#views.delete(id);
  }

  async #setTimeout(id: string, timeoutMs: number): Promise<void> {
    const view = this.#get(id);
    this.#put({ ...view, record: { ...view.record, endAtMs: this.nowMs + timeoutMs } });
    if (timeoutMs === 0) this.#views.delete(id);
  }

  async #setInternetAccess(id: string, allowInternetAccess: boolean): Promise<void> {
    const view = this.#get(id);
    if (view.state === "paused") throw new DomainError("not_found", `Sandbox "${id}" is paused`);
    this.#put({ ...view, record: { ...view.record, allowInternetAccess } });
  }

  async #refresh(id: string, durationMs: number): Promise<void> {
    const view = this.#get(id);
    const endAtMs = Math.max(view.record.endAtMs, this.nowMs + durationMs);
    this.#put({ ...view, record: { ...view.record, endAtMs } });
  }

  #metrics(id: string, range: { fromMs?: number; toMs?: number }): SandboxMetricSample[] {
    this.#get(id);
    const { fromMs = 0, toMs = Number.MAX_SAFE_INTEGER } = range;
    return (this.samples.get(id) ?? []).filter(({ atMs }) => atMs >= fromMs && atMs <= toMs);
  }

  #logs(id: string, query: SandboxLogsQuery): SandboxLogEntry[] {
    if (!this.logLines.some(({ sandboxId }) => sandboxId === id)) this.#get(id);
    const { fromMs = 0, toMs = Number.MAX_SAFE_INTEGER, level = "debug", search, order, limit } = query;
    const ranks = ["debug", "info", "warn", "error"];
    const lines = this.logLines.filter(
      (line) =>
        line.sandboxId === id &&
        line.atMs >= fromMs &&
        line.atMs <= toMs &&
        ranks.indexOf(line.level) >= ranks.indexOf(level) &&
        line.message.includes(search),
    );
    return (order === "asc" ? lines : lines.toReversed()).slice(0, limit);
  }

  findTemplate(name: string): { id: string; aliases: readonly string[] } | undefined {
    return name === "base" || name === templateId ? { id: templateId, aliases: ["base"] } : undefined;
  }

  benchmarks(): BenchmarkSummary[] {
    this.#mayFail();
    const times = { p50Ms: 1, p90Ms: 2, p95Ms: 3, p99Ms: 4 };
    return [{ span: "kill_delete", scenario: "killed", engine: "qemu", acceleration: "none", n: 7, ...times }];
  }

  waitingForDisk(): number {
    return 0;
  }

  capacity(): CapacityView {
    const use = { active: 3, warm: 1, limit: 100 };
    return {
      budgets: { sandboxes: use, vcpuCount: use, memoryMiB: use, diskMiB: use },
      warmPool: { ready: 1, warming: 0, leaving: 0 },
      pausedInMemory: 0,
      waitingForDisk: 0,
      waiting: 0,
    };
  }

  /** Shows a sandbox as paused. */
  pause(id: string): void {
    const view = this.#get(id);
    this.#put({ ...view, record: { ...view.record, state: "paused", endAtMs: this.nowMs }, state: "paused" });
  }

  #put(view: SandboxView): SandboxView {
    this.#views.set(view.record.id, view);
    return view;
  }

  #mayFail(): void {
    const error = this.nextError;
    this.nextError = undefined;
    if (error !== undefined) throw error;
  }
}

type Position = { readonly startedAtMs: number; readonly id: string };

function comparePosition(a: Position, b: Position): number {
  return a.startedAtMs - b.startedAtMs || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0);
}
