/** The observations of one sandbox that clients may read: its metrics, its log and its latency samples. */
import { samplesOfSandbox } from "../../ledger/samples.ts";
import { getSandbox } from "../../ledger/sandboxes.ts";
import type { LatencySample, SandboxLogEntry } from "../../types.ts";
import type { SandboxLogsQuery, SandboxMetricSample } from "../contract.ts";
import type { MetricsSampler } from "../records/metrics-sampler.ts";
import { tryFlush } from "../records/try-flush.ts";
import type { SandboxContext } from "./context.ts";

/** How many latency samples of a sandbox a client gets. */
const latencyLimit = 200;

export class SandboxObservations {
  readonly #context: SandboxContext;
  readonly #sampler: MetricsSampler;

  constructor(context: SandboxContext, sampler: MetricsSampler) {
    this.#context = context;
    this.#sampler = sampler;
  }

  /** The samples of the last two hours, oldest first. @throws DomainError `not_found` */
  metrics(id: string, range: { readonly fromMs?: number; readonly toMs?: number }): SandboxMetricSample[] {
    this.#context.registry.get(id);
    return this.#sampler.samples(id, range);
  }

  /**
   * The log of a sandbox and of its commands. A sandbox that has ended keeps its log as long as the ledger keeps its
   * row.
   * @throws DomainError `not_found`
   */
  logs(id: string, query: SandboxLogsQuery): SandboxLogEntry[] {
    const { deps, registry } = this.#context;
    if (!registry.view(id) && getSandbox(deps.ledger, id)?.endReason == null) registry.get(id);
    return deps.logs.read(id, query);
  }

  /** The newest 200 samples, oldest first. @throws DomainError `not_found` */
  latency(id: string): LatencySample[] {
    const { deps, registry } = this.#context;
    registry.get(id);
    tryFlush(deps.samples, deps.log);
    return samplesOfSandbox(deps.ledger, id, latencyLimit);
  }
}
