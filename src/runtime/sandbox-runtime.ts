/**
 * The composition the seed calls the production runtime: templates, ledger, machines and sessions meet here and only
 * here. Every change of a sandbox goes through its serial queue, ledger first, then the machine.
 */
import { DomainError } from "../errors.ts";
import { samplesOfSandbox, summarizeSamples } from "../ledger/samples.ts";
import { isSandboxSnapshot } from "../ledger/sandbox-snapshots.ts";
import { getSandbox } from "../ledger/sandboxes.ts";
import { findTemplate } from "../ledger/templates.ts";
import type { EngineInfo, Vm } from "../machine/driver.ts";
import type { TeamMetricSample } from "../team/team.ts";
import type { ContinuationReason, LatencySample, SandboxLogEntry, SandboxRecord } from "../types.ts";
import { updateGauges, viewCapacity } from "./capacity-view.ts";
import type { Quarantine } from "./machines/quarantine.ts";
import type { SnapshotShelf } from "./pool/snapshot-shelf.ts";
import { MetricsSampler } from "./records/metrics-sampler.ts";
import { TeamMetrics } from "./records/team-metrics.ts";
import { tryFlush } from "./records/try-flush.ts";
import type {
  BenchmarkSummary,
  CapacityView,
  CreateOptions,
  CreateSandboxRequest,
  FollowupRequest,
  ForkOutcome,
  ListSandboxesPage,
  ListSandboxesQuery,
  ListSnapshotsPage,
  ListSnapshotsQuery,
  MemoryOption,
  PauseOptions,
  ResumeOptions,
  Runtime,
  SandboxLogsQuery,
  SandboxMetricSample,
  SandboxView,
  SnapshotView,
} from "./runtime.ts";
import { attachSession, releaseSessions } from "./sandboxes/attach.ts";
import { type Attach, type CreationDependencies, type ReadyMachine, SandboxCreation } from "./sandboxes/create.ts";
import { SandboxDeadlines } from "./sandboxes/deadlines.ts";
import { SandboxEnds } from "./sandboxes/end.ts";
import { type ForkDependencies, SandboxForks } from "./sandboxes/fork.ts";
import { IdempotentCreates } from "./sandboxes/idempotent-creates.ts";
import { switchInternetAccess } from "./sandboxes/internet-access.ts";
import { Departures } from "./sandboxes/leave.ts";
import { SandboxPause } from "./sandboxes/pause.ts";
import { SandboxRegistry } from "./sandboxes/registry.ts";
import { SerialQueue } from "./sandboxes/serial-queue.ts";
import { GuestClocks } from "./sessions/guest-clocks.ts";
import { StuckVmCleanup } from "./sessions/heartbeats.ts";
import type { Session } from "./sessions/session.ts";

export interface RuntimeDependencies extends CreationDependencies, ForkDependencies {
  /** How long a machine may leave heartbeats unanswered. */
  readonly stuckAfterMs: number;
  readonly quarantine: Quarantine;
  readonly shelf: SnapshotShelf;
  readonly accessTokenFor: (sandboxId: string) => string;
}

/** How many of a sandbox's samples a client gets. */
const latencyLimit = 200;

export class SandboxRuntime implements Runtime {
  readonly #deps: RuntimeDependencies;
  readonly #registry = new SandboxRegistry();
  readonly #queue = new SerialQueue();
  readonly departures: Departures;
  readonly #sampler: MetricsSampler;
  readonly #team: TeamMetrics;
  readonly #stuckVms: StuckVmCleanup;
  readonly #guestClocks: GuestClocks;
  readonly #attach: Attach;
  readonly #creates: IdempotentCreates;
  readonly #pause: SandboxPause;
  readonly #forks: SandboxForks;
  readonly #ends: SandboxEnds;
  readonly #deadlines: SandboxDeadlines;
  /** New work is refused once the daemon stops. */
  #phase: "serving" | "closing" = "serving";

  constructor(deps: RuntimeDependencies) {
    this.#deps = deps;
    this.departures = new Departures(deps, this.#registry);
    this.#sampler = new MetricsSampler(deps.clock, (session) => this.#stuckVms.heard(session));
    this.#team = new TeamMetrics(deps.clock);
    this.#guestClocks = new GuestClocks(deps.clock);
    this.#attach = (record, machine) => {
      const around = { registry: this.#registry, team: this.#team, ends: this.#ends };
      return attachSession(deps, around, record, machine);
    };
    const creation = new SandboxCreation(deps, this.#queue, this.#attach);
    this.#creates = new IdempotentCreates(deps.ledger, this.#registry, creation);
    const pause = new SandboxPause(deps, this.#registry, this.#queue, {
      attach: this.#attach,
      departures: this.departures,
    });
    const ends = new SandboxEnds(deps, this.#registry, this.#queue, { pause, departures: this.departures });
    this.#pause = pause;
    this.#ends = ends;
    this.#stuckVms = new StuckVmCleanup(deps.clock, deps.stuckAfterMs, (session, silentMs) =>
      ends.lose(session.sandboxId, session.sessionId, "lost", `no heartbeat for ${Math.round(silentMs)} ms`),
    );
    this.#deadlines = new SandboxDeadlines(deps, this.#registry, this.#queue, { pause, ends });
    this.#forks = new SandboxForks(deps, this.#registry, this.#queue, {
      start: (...child) => creation.startFrom(...child),
      saveInQueue: (record) => pause.inMemory.saveInQueue(record),
    });
  }

  get engine(): EngineInfo {
    return this.#deps.driver.info;
  }

  async createSandbox(request: CreateSandboxRequest, options: CreateOptions = {}): Promise<SandboxView> {
    this.#refuseWhenClosing();
    return this.#creates.create(request, options);
  }

  async connectSandbox(
    id: string,
    timeoutMs: number,
    option: MemoryOption = {},
  ): Promise<{ view: SandboxView; resumed: boolean }> {
    this.#refuseWhenClosing();
    return this.#queue.run(id, async (overtaken) => {
      if (this.#registry.get(id).state === "running")
        return { view: this.#deadlines.extendInQueue(id, timeoutMs), resumed: false };
      return { view: await this.#pause.resumeInQueue(id, timeoutMs, overtaken, option), resumed: true };
    });
  }

  async pauseSandbox(id: string, reason: ContinuationReason, options: PauseOptions = {}): Promise<void> {
    this.#refuseWhenClosing();
    await this.#pause.pause(id, reason, options);
  }

  async resumeSandbox(id: string, timeoutMs: number, options: ResumeOptions = {}): Promise<SandboxView> {
    this.#refuseWhenClosing();
    return this.#pause.resume(id, timeoutMs, options);
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
    return this.#forks.listSnapshots(query);
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
    const view = this.#registry.get(id);
    const keptMemory = this.#pause.keptMemory(view.record);
    return keptMemory === undefined ? view : { ...view, keptMemory };
  }

  listSandboxes(query: ListSandboxesQuery): ListSandboxesPage {
    return this.#registry.list(query);
  }

  killSandbox(id: string): Promise<void> {
    return this.#ends.kill(id);
  }

  stopSandbox(id: string, deadlineMs: number): Promise<void> {
    return this.#ends.stop(id, deadlineMs);
  }

  setSandboxTimeout(id: string, timeoutMs: number): Promise<void> {
    return this.#deadlines.set(id, timeoutMs);
  }

  setSandboxInternetAccess(id: string, allowed: boolean): Promise<void> {
    return this.#queue.run(id, () => switchInternetAccess(this.#deps.ledger, this.#registry, id, allowed));
  }

  refreshSandbox(id: string, durationMs: number): Promise<void> {
    return this.#deadlines.refresh(id, durationMs);
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
    tryFlush(this.#deps.samples, this.#deps.log);
    return summarizeSamples(this.#deps.ledger);
  }

  sandboxLatency(id: string): LatencySample[] {
    this.getSandbox(id);
    tryFlush(this.#deps.samples, this.#deps.log);
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

  /** Ends or pauses every sandbox whose time is up. */
  expireSandboxes(): void {
    this.#deadlines.expireDue();
  }

  /** Sends a heartbeat to every machine that said nothing of late, gives up those that have not answered for too long, and keeps their clocks right. */
  checkHeartbeats(): void {
    this.#stuckVms.check(this.#registry.sessions());
    this.#guestClocks.check(this.#registry.sessions());
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
    updateGauges(this.capacity(), { ...this.#deps, count: (state) => this.#registry.count(state) });
  }

  /** Shows a sandbox that an earlier daemon started and whose machine still runs. */
  adopt(record: SandboxRecord, machine: Pick<ReadyMachine, "vm" | "agent">): void {
    this.#attach(record, { ...machine, origin: "adopted", restoreStartedMs: undefined });
  }

  /** Shows a sandbox that an earlier daemon paused. */
  adoptPaused(record: SandboxRecord): void {
    this.#registry.add(record, this.#deps.accessTokenFor(record.id), undefined);
  }

  /** Shows a sandbox that an earlier daemon paused in memory and whose machine is still there. */
  async adoptPausedInMemory(record: SandboxRecord, vm: Vm): Promise<void> {
    await this.#pause.inMemory.adopt(record, vm);
    this.adoptPaused(record);
  }

  /** Tries to save what is paused in memory. */
  savePaused(signal: AbortSignal): Promise<void> {
    return this.#pause.inMemory.saveAll(signal);
  }

  /** Resolves when nothing is under way for any sandbox. */
  idle(): Promise<void> {
    return this.#queue.idle();
  }

  /** Refuses new work, waits for what is under way and lets go of every machine without ending it. */
  async close(): Promise<void> {
    this.#phase = "closing";
    this.#deps.admission.close();
    this.#ends.close();
    await this.idle();
    this.#deps.warmPool.close();
    await this.#deps.terminator.close();
    await releaseSessions(this.#registry.sessions());
    await this.#pause.inMemory.release();
    tryFlush(this.#deps.samples, this.#deps.log);
    tryFlush(this.#deps.logs, this.#deps.log);
  }

  #refuseWhenClosing(): void {
    if (this.#phase === "closing") throw new DomainError("not_ready", "The daemon is stopping");
  }
}
