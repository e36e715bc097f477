/**
 * The composition the seed calls the production runtime: templates, ledger, machines and sessions meet here and only
 * here. Every change of a sandbox goes through its serial queue, ledger first, then the machine.
 */
import { DomainError } from "../errors.ts";
import { samplesOfSandbox, summarizeSamples } from "../ledger/samples.ts";
import { isSandboxSnapshot, listSandboxSnapshots } from "../ledger/sandbox-snapshots.ts";
import { getSandbox, moveSandbox, setSandboxEnd, setSandboxInternetAccess } from "../ledger/sandboxes.ts";
import { findTemplate } from "../ledger/templates.ts";
import type { EngineInfo } from "../machine/driver.ts";
import type {
  ContinuationReason,
  EndReason,
  LatencySample,
  SandboxLogEntry,
  SandboxRecord,
  SessionOrigin,
} from "../types.ts";
import { viewCapacity } from "./capacity-view.ts";
import { endMessages } from "./end-messages.ts";
import { LiveSession } from "./live-session.ts";
import { MetricsSampler } from "./metrics-sampler.ts";
import type { Quarantine } from "./quarantine.ts";
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
  Runtime,
  SandboxLogsQuery,
  SandboxMetricSample,
  SandboxView,
  SnapshotView,
} from "./runtime.ts";
import { type CreationDependencies, type ReadyMachine, SandboxCreation } from "./sandbox-create.ts";
import { type ForkDependencies, SandboxForks } from "./sandbox-forks.ts";
import { SandboxPause } from "./sandbox-pause.ts";
import { SandboxRegistry } from "./sandbox-registry.ts";
import { SerialQueue } from "./serial-queue.ts";
import type { Session } from "./session.ts";
import { SessionStop } from "./session-stop.ts";
import { StuckVmCleanup } from "./stuck-vm-cleanup.ts";
import type { TeamMetricSample } from "./team.ts";
import { TeamMetrics } from "./team-metrics.ts";

export interface RuntimeDependencies extends CreationDependencies, ForkDependencies {
  /** How long a machine may leave heartbeats unanswered. */
  readonly stuckAfterMs: number;
  readonly quarantine: Quarantine;
  readonly accessTokenFor: (sandboxId: string) => string;
}

/** When a sandbox that could not be paused at the end of its time is tried again. */
const pauseRetryMs = 10_000;

/** How many of a sandbox's samples a client gets. */
const latencyLimit = 200;

/** The first line of what follows in a sandbox's log. */
const originMessages: Record<SessionOrigin, string> = {
  create: "The sandbox was created",
  pool: "The sandbox was created",
  fork: "The sandbox was created as a fork",
  followup: "The sandbox was created as a follow-up",
  resume: "The sandbox was resumed",
  adopted: "The daemon took up the running sandbox",
};

export class SandboxRuntime implements Runtime {
  readonly #deps: RuntimeDependencies;
  readonly #registry = new SandboxRegistry();
  readonly #queue = new SerialQueue();
  readonly #sampler: MetricsSampler;
  readonly #team: TeamMetrics;
  readonly #stuckVms: StuckVmCleanup;
  readonly #creation: SandboxCreation;
  readonly #pause: SandboxPause;
  readonly #forks: SandboxForks;
  readonly #stop: SessionStop;
  /** Sandboxes whose time is up and that are just being ended or paused. */
  readonly #expiring = new Set<string>();
  /** New work is refused once the daemon stops. */
  #phase: "serving" | "closing" = "serving";

  constructor(deps: RuntimeDependencies) {
    this.#deps = deps;
    this.#sampler = new MetricsSampler(deps.clock);
    this.#team = new TeamMetrics(deps.clock);
    this.#stuckVms = new StuckVmCleanup(deps.clock, deps.stuckAfterMs, (session, silentMs) =>
      this.#lose(session.sandboxId, session.sessionId, "lost", `no heartbeat for ${Math.round(silentMs)} ms`),
    );
    this.#stop = new SessionStop(deps.clock);
    const attach = (record: SandboxRecord, machine: ReadyMachine) => this.#attach(record, machine);
    this.#creation = new SandboxCreation(deps, this.#queue, attach);
    this.#pause = new SandboxPause(deps, this.#registry, this.#queue, attach);
    this.#forks = new SandboxForks(deps, this.#registry, this.#queue, (...child) => this.#creation.startFrom(...child));
  }

  get engine(): EngineInfo {
    return this.#deps.driver.info;
  }

  async createSandbox(request: CreateSandboxRequest, signal?: AbortSignal): Promise<SandboxView> {
    this.#refuseWhenClosing();
    return this.#creation.create(request, signal);
  }

  async connectSandbox(
    id: string,
    timeoutMs: number,
    { memory = true }: MemoryOption = {},
  ): Promise<{ view: SandboxView; resumed: boolean }> {
    this.#refuseWhenClosing();
    return this.#queue.run(id, async () => {
      if (this.#registry.get(id).state === "running") return { view: this.#extend(id, timeoutMs), resumed: false };
      return { view: await this.#pause.resumeInQueue(id, timeoutMs, memory), resumed: true };
    });
  }

  async pauseSandbox(id: string, reason: ContinuationReason, { memory = true }: MemoryOption = {}): Promise<void> {
    this.#refuseWhenClosing();
    await this.#pause.pause(id, reason, memory);
  }

  async resumeSandbox(id: string, timeoutMs: number, { memory = true }: MemoryOption = {}): Promise<SandboxView> {
    this.#refuseWhenClosing();
    return this.#pause.resume(id, timeoutMs, memory);
  }

  async resumeForTraffic(id: string): Promise<Session | undefined> {
    this.#refuseWhenClosing();
    return this.#pause.resumeForTraffic(id);
  }

  async forkSandbox(id: string, options: { count: number; timeoutMs: number }): Promise<ForkOutcome[]> {
    this.#refuseWhenClosing();
    return this.#forks.fork(id, options);
  }

  async snapshotSandbox(id: string, name?: { name: string; tag: string | undefined }): Promise<SnapshotView> {
    this.#refuseWhenClosing();
    return this.#forks.snapshot(id, name);
  }

  listSnapshots(query: ListSnapshotsQuery): ListSnapshotsPage {
    const rows = listSandboxSnapshots(this.#deps.ledger, { ...query, limit: query.limit + 1 });
    const snapshots = rows.slice(0, query.limit);
    return { snapshots, next: rows.length > snapshots.length ? snapshots.at(-1) : undefined };
  }

  isSandboxSnapshot(name: string): boolean {
    return isSandboxSnapshot(this.#deps.ledger, name);
  }

  deleteSnapshot(name: string, tag: string | undefined): Promise<void> {
    return this.#forks.deleteSnapshot(name, tag);
  }

  async followUpSandbox(id: string, request: FollowupRequest): Promise<{ view: SandboxView; reason: string }> {
    this.#refuseWhenClosing();
    return this.#forks.followUp(id, request);
  }

  getSandbox(id: string): SandboxView {
    return this.#registry.get(id);
  }

  listSandboxes(query: ListSandboxesQuery): ListSandboxesPage {
    return this.#registry.list(query);
  }

  async killSandbox(id: string): Promise<void> {
    this.getSandbox(id);
    this.#stop.cutShort(id);
    await this.#queue.run(id, async () => {
      const { record, state } = this.getSandbox(id);
      if (state === "paused") this.#pause.killInQueue(record, "killed");
      else this.#end(record, "killed");
    });
  }

  async stopSandbox(id: string, deadlineMs: number): Promise<void> {
    await this.#queue.run(id, async () => {
      const view = this.#registry.view(id);
      // Stopped before, or ended by whatever: what the client wants is so.
      if (!view && getSandbox(this.#deps.ledger, id)) return;
      const { record, state } = this.getSandbox(id);
      if (state === "paused") return this.#pause.killInQueue(record, "stopped");
      await this.#stop.stop(this.#registry.getRunning(id).session, deadlineMs);
      this.#end(this.getSandbox(id).record, "stopped");
    });
  }

  async setSandboxTimeout(id: string, timeoutMs: number): Promise<void> {
    await this.#queue.run(id, async () => {
      const { record } = this.#registry.getRunning(id);
      const endAtMs = this.#deps.clock.nowMs() + timeoutMs;
      this.#registry.update(setSandboxEnd(this.#deps.ledger, record.id, endAtMs));
      this.#logEnd(id, endAtMs);
      if (timeoutMs === 0) await this.#expire(id);
    });
  }

  async setSandboxInternetAccess(id: string, allowed: boolean): Promise<void> {
    await this.#queue.run(id, async () => {
      const { record, session } = this.#registry.getRunning(id);
      const { ledger } = this.#deps;
      this.#registry.update(setSandboxInternetAccess(ledger, id, allowed));
      try {
        await session.vm.setInternetAccess(allowed);
      } catch (error) {
        this.#registry.update(setSandboxInternetAccess(ledger, id, record.allowInternetAccess));
        throw error;
      }
      session.log.info({ allowed }, "internet access switched");
    });
  }

  async refreshSandbox(id: string, durationMs: number): Promise<void> {
    await this.#queue.run(id, async () => void this.#extend(id, durationMs));
  }

  sandboxMetrics(id: string, range: { fromMs?: number; toMs?: number }): SandboxMetricSample[] {
    this.getSandbox(id);
    return this.#sampler.samples(id, range);
  }

  sandboxLogs(id: string, query: SandboxLogsQuery): SandboxLogEntry[] {
    // In the ledger only when it has ended.
    if (!this.#registry.view(id) && getSandbox(this.#deps.ledger, id)?.endReason == null) this.getSandbox(id);
    return this.#deps.logs.read(id, query);
  }

  teamMetrics(range: { fromMs?: number; toMs?: number }): TeamMetricSample[] {
    return this.#team.samples(range);
  }

  findTemplate(name: string): { id: string; aliases: readonly string[] } | undefined {
    return findTemplate(this.#deps.ledger, name);
  }

  benchmarks(): BenchmarkSummary[] {
    this.#deps.samples.flush();
    return summarizeSamples(this.#deps.ledger);
  }

  sandboxLatency(id: string): LatencySample[] {
    this.getSandbox(id);
    this.#deps.samples.flush();
    return samplesOfSandbox(this.#deps.ledger, id, latencyLimit);
  }

  findSession(sandboxId: string): Session | undefined {
    return this.#registry.session(sandboxId);
  }

  findSessionByAccessToken(accessToken: string): Session | undefined {
    return this.#registry.sessionByAccessToken(accessToken);
  }

  *resumableByTraffic(): Iterable<SandboxView> {
    for (const view of this.#registry.views()) {
      if (this.#pause.isResumedByTraffic(view)) yield view;
    }
  }

  liveSessions(): Iterable<Session> {
    return this.#registry.sessions();
  }

  /** Ends or pauses every sandbox whose time is up; waits for none, so that a long pause delays no other's end. */
  expireSandboxes(): void {
    const nowMs = this.#deps.clock.nowMs();
    for (const { record, state } of this.#registry.views()) {
      const { id } = record;
      if (state !== "running" || record.endAtMs > nowMs || this.#expiring.has(id)) continue;
      this.#expiring.add(id);
      this.#queue
        .run(id, () => this.#expire(id))
        .catch((error) => this.#deps.log.error({ err: error, sandboxID: id }, "a sandbox could not be ended in time"))
        .finally(() => this.#expiring.delete(id));
    }
  }

  /** Sends every machine a heartbeat, and gives up those that have not answered for too long. */
  checkHeartbeats(): void {
    this.#stuckVms.check(this.#registry.sessions());
  }

  /** Takes one metrics sample of all together and of every live session. */
  sampleMetrics(): Promise<void> {
    this.#team.sample(this.#registry.count("running"));
    return this.#sampler.sampleAll(this.#registry.sessions(), (id) => this.#registry.view(id) !== undefined);
  }

  capacity(): CapacityView {
    return viewCapacity(this.#deps);
  }

  /** Brings the gauges up to date. */
  updateGauges(): void {
    const { metrics, quarantine } = this.#deps;
    const { budgets, warmPool } = this.capacity();
    quarantine.updateGauge();
    for (const state of ["running", "paused"] as const) metrics.sandboxes.set({ state }, this.#registry.count(state));
    for (const [state, machines] of Object.entries(warmPool)) metrics.warmPoolDepth.set({ state }, machines);
    for (const [budget, use] of Object.entries(budgets)) {
      for (const [kind, amount] of Object.entries(use)) metrics.capacity.set({ budget, kind }, amount);
    }
  }

  /** Shows a sandbox that an earlier daemon started and whose machine still runs. */
  adopt(record: SandboxRecord, machine: Pick<ReadyMachine, "vm" | "agent">): void {
    this.#attach(record, { ...machine, origin: "adopted", restoreStartedMs: undefined });
  }

  /** Shows a sandbox that an earlier daemon paused. */
  adoptPaused(record: SandboxRecord): void {
    this.#registry.add(record, this.#deps.accessTokenFor(record.id), undefined);
  }

  /** Resolves when nothing is under way for any sandbox. */
  idle(): Promise<void> {
    return this.#queue.idle();
  }

  /** Refuses new work, waits for what is under way and lets go of every machine without ending it. */
  async close(): Promise<void> {
    this.#phase = "closing";
    this.#deps.admission.close();
    this.#stop.close();
    await this.idle();
    this.#deps.warmPool.close();
    await this.#deps.terminator.close();
    const sessions = [...this.#registry.sessions()];
    for (const session of sessions) session.end(new DomainError("not_ready", "The daemon stops; connect again later"));
    await Promise.all(sessions.map((session) => session.vm.release()));
    this.#deps.samples.flush();
    this.#deps.logs.flush();
  }

  #logEnd(id: string, endAtMs: number): void {
    const message = `The sandbox's time is up at ${new Date(endAtMs).toISOString()}`;
    this.#deps.logs.record(id, message, { level: "debug", event: "timeout" });
  }

  #refuseWhenClosing(): void {
    if (this.#phase === "closing") throw new DomainError("not_ready", "The daemon is stopping");
  }

  #attach(record: SandboxRecord, { vm, agent, origin, restoreStartedMs }: ReadyMachine): SandboxView {
    const { clock, samples, log, logs, accessTokenFor } = this.#deps;
    const accessToken = accessTokenFor(record.id);
    const session = new LiveSession({
      record,
      accessToken,
      vm,
      agent,
      origin,
      restoreStartedMs,
      clock,
      samples,
      log,
      commands: logs.ofSession(record.id),
      onLost: (reason, detail) => this.#lose(record.id, vm.record.sessionId, reason, detail),
    });
    if (origin !== "adopted") this.#team.countStart();
    logs.record(record.id, originMessages[origin], { event: "running", origin, templateID: record.templateId });
    session.log.info({ template: record.templateId }, "sandbox running");
    return this.#registry.change(record, session) ?? this.#registry.add(record, accessToken, session);
  }

  #extend(id: string, timeoutMs: number): SandboxView {
    this.#registry.getRunning(id);
    const view = this.#registry.get(id);
    const endAtMs = this.#deps.clock.nowMs() + timeoutMs;
    if (endAtMs <= view.record.endAtMs) return view;
    this.#logEnd(id, endAtMs);
    return this.#registry.update(setSandboxEnd(this.#deps.ledger, id, endAtMs)) ?? view;
  }

  async #expire(id: string): Promise<void> {
    const { ledger, clock, log } = this.#deps;
    const view = this.#registry.view(id);
    if (view?.state !== "running" || view.record.endAtMs > clock.nowMs()) return;
    if (view.record.lifecycle.onTimeout === "kill") return this.#end(view.record, "expired");
    try {
      await this.#pause.pauseInQueue(id, "idle", view.record.lifecycle.keepMemory);
    } catch (error) {
      // Its owner wants to find it again: no reason to end it.
      log.error({ err: error, sandboxID: id }, "a sandbox could not be paused in time; trying again later");
      if (this.#registry.view(id)?.state !== "running") return;
      this.#registry.update(setSandboxEnd(ledger, id, clock.nowMs() + pauseRetryMs));
    }
  }

  #lose(id: string, sessionId: string, reason: EndReason, detail: string): void {
    const { log } = this.#deps;
    const ending = this.#queue.run(id, async () => {
      const session = this.#registry.session(id);
      const record = this.#registry.view(id)?.record;
      // A session that was ended meanwhile, or succeeded by another, has nothing to lose any more.
      if (!record || session?.sessionId !== sessionId) return;
      session.log.error({ detail }, "sandbox lost");
      this.#deps.logs.record(id, detail, { level: "error", event: "lost" });
      this.#end(record, reason);
    });
    ending.catch((error) => log.error({ err: error, sandboxID: id }, "a lost sandbox could not be ended"));
  }

  /**
   * Ends a running sandbox: nobody sees it any more when this returns. Its machine ends in the background, and its
   * capacity is released after that.
   */
  #end(record: SandboxRecord, reason: EndReason): void {
    const { ledger, clock, samples, terminator } = this.#deps;
    const startedMs = clock.monotonicMs();
    const { session } = this.#registry.getRunning(record.id);
    const ending = moveSandbox(ledger, record.id, "running", "terminating", { endReason: reason });
    this.#registry.remove(record.id);
    session.end(new DomainError("not_found", endMessages[reason]));
    this.#deps.logs.record(record.id, endMessages[reason], { event: "ended", reason, level: levelOf(reason) });
    session.log.info({ reason }, "sandbox ending");
    terminator.terminate(
      ending,
      () => session.vm.terminate(),
      () => samples.record("kill_delete", reason, clock.monotonicMs() - startedMs, record.id),
    );
  }
}

/** Clients want these; whatever else ends a sandbox is a fault. */
function levelOf(reason: EndReason): SandboxLogEntry["level"] {
  return reason === "killed" || reason === "stopped" || reason === "expired" ? "info" : "error";
}
