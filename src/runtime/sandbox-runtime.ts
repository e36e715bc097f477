/**
 * The composition the seed calls the production runtime: templates, ledger, machines and sessions meet here and only
 * here. Every change of a sandbox goes through its serial queue, ledger first, then the machine.
 */
import { randomUUID } from "node:crypto";
import type { Clock } from "../clock.ts";
import { DomainError } from "../errors.ts";
import { type CapacityBudgets, usage } from "../ledger/capacity.ts";
import type { Ledger } from "../ledger/open.ts";
import { summarizeSamples } from "../ledger/samples.ts";
import { insertSandbox, moveSandbox, setSandboxEnd } from "../ledger/sandboxes.ts";
import { resolveTemplate } from "../ledger/templates.ts";
import type { Logger } from "../log.ts";
import type { EngineInfo, VmDriver } from "../machine/driver.ts";
import type { Metrics } from "../metrics.ts";
import type { EndReason, SandboxRecord } from "../types.ts";
import type { DiskPressureGuard } from "./disk-pressure-guard.ts";
import type { LifecycleSamples } from "./lifecycle-samples.ts";
import { LiveSession } from "./live-session.ts";
import { MetricsSampler } from "./metrics-sampler.ts";
import type {
  BenchmarkSummary,
  CreateSandboxRequest,
  ListSandboxesPage,
  ListSandboxesQuery,
  Runtime,
  SandboxMetricSample,
  SandboxView,
} from "./runtime.ts";
import { SandboxRegistry } from "./sandbox-registry.ts";
import { SerialQueue } from "./serial-queue.ts";
import type { Session } from "./session.ts";
import type { SessionTerminator } from "./session-terminator.ts";
import { restoreSession } from "./snapshot-restore.ts";

export interface RuntimeDependencies {
  readonly ledger: Ledger;
  readonly driver: VmDriver;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly samples: LifecycleSamples;
  readonly disk: DiskPressureGuard;
  readonly terminator: SessionTerminator;
  readonly budgets: CapacityBudgets;
  readonly newSandboxId: () => string;
  readonly accessTokenFor: (sandboxId: string) => string;
}

/** Serving, or refusing new work because the daemon stops. */
type Phase = "serving" | "closing";

export class SandboxRuntime implements Runtime {
  readonly #deps: RuntimeDependencies;
  readonly #registry = new SandboxRegistry();
  readonly #queue = new SerialQueue();
  readonly #sampler: MetricsSampler;
  #phase: Phase = "serving";

  constructor(deps: RuntimeDependencies) {
    this.#deps = deps;
    this.#sampler = new MetricsSampler(deps.clock);
  }

  get engine(): EngineInfo {
    return this.#deps.driver.info;
  }

  async createSandbox(request: CreateSandboxRequest): Promise<SandboxView> {
    const { metrics, disk } = this.#deps;
    this.#refuseWhenClosing();
    const template = resolveTemplate(this.#deps.ledger, request.template.name, request.template.tag);
    try {
      await disk.admit("create a sandbox");
      const record = this.#admit(request, template);
      const view = await this.#queue.run(record.id, () => this.#start(record, template.snapshot.folder, request));
      metrics.sandboxesCreated.inc({ outcome: "created" });
      return view;
    } catch (error) {
      metrics.sandboxesCreated.inc({ outcome: "failed" });
      throw error;
    }
  }

  async connectSandbox(id: string, timeoutMs: number): Promise<{ view: SandboxView; resumed: boolean }> {
    return this.#queue.run(id, async () => ({ view: this.#extend(id, timeoutMs), resumed: false }));
  }

  getSandbox(id: string): SandboxView {
    const view = this.#registry.view(id);
    if (view) return view;
    throw new DomainError("not_found", `Sandbox "${id}" doesn't exist or you don't have access to it`);
  }

  listSandboxes(query: ListSandboxesQuery): ListSandboxesPage {
    return this.#registry.list(query);
  }

  async killSandbox(id: string): Promise<void> {
    this.getSandbox(id);
    await this.#queue.run(id, async () => this.#beginEnd(this.getSandbox(id).record, "killed"));
  }

  async setSandboxTimeout(id: string, timeoutMs: number): Promise<void> {
    await this.#queue.run(id, async () => {
      const { record } = this.getSandbox(id);
      const endAtMs = this.#deps.clock.nowMs() + timeoutMs;
      this.#registry.update(setSandboxEnd(this.#deps.ledger, record.id, endAtMs));
      if (timeoutMs === 0) this.#beginEnd(this.getSandbox(id).record, "expired");
    });
  }

  async refreshSandbox(id: string, durationMs: number): Promise<void> {
    await this.#queue.run(id, async () => void this.#extend(id, durationMs));
  }

  sandboxMetrics(id: string, range: { fromMs?: number; toMs?: number }): SandboxMetricSample[] {
    this.getSandbox(id);
    const session = this.#registry.session(id);
    return session ? this.#sampler.samples(session, range) : [];
  }

  findTemplate(name: string): { id: string; aliases: readonly string[] } | undefined {
    throw new Error("later");
  }

  benchmarks(): BenchmarkSummary[] {
    this.#deps.samples.flush();
    return summarizeSamples(this.#deps.ledger);
  }

  findSession(sandboxId: string): Session | undefined {
    return this.#registry.session(sandboxId);
  }

  findSessionByAccessToken(accessToken: string): Session | undefined {
    return this.#registry.sessionByAccessToken(accessToken);
  }

  liveSessions(): Iterable<Session> {
    return this.#registry.sessions();
  }
}
