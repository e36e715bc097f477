/** Every Prometheus metric of the daemon, in one place. Label values come from closed sets; never a sandbox id. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";

/** From half a millisecond: a pool hit takes less than one, a cold template build minutes. */
const latencyBucketsSeconds = [
  0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
];

export interface Metrics {
  readonly registry: Registry;
  readonly lifecycleSeconds: Histogram<"span" | "engine" | "acceleration">;
  readonly sandboxes: Gauge<"state">;
  readonly sandboxesCreated: Counter<"outcome">;
  readonly sandboxesEnded: Counter<"reason">;
  readonly capacity: Gauge<"budget" | "kind">;
  readonly admissions: Counter<"answer">;
  readonly admissionQueue: Gauge;
  readonly warmPoolCheckouts: Counter<"outcome">;
  readonly warmPoolDepth: Gauge<"state">;
  readonly warmPoolDiscards: Counter<"reason">;
  readonly warmPoolRefillSeconds: Histogram;
  readonly backgroundErrors: Counter<"loop">;
  readonly reconciled: Counter<"outcome">;
  readonly quarantined: Gauge<"kind">;
  readonly snapshotChecks: Counter<"outcome">;
  readonly snapshotsToCheck: Gauge;
  readonly artifactsCollected: Counter<"kind">;
}

export function createMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, prefix: "firkin_" });
  // Gauges that are named like counters, which promtool rightly refuses; the same by type stay.
  for (const what of ["handles", "requests", "resources"]) {
    registry.removeSingleMetric(`firkin_nodejs_active_${what}_total`);
  }
  const registers = [registry];
  return {
    registry,
    lifecycleSeconds: new Histogram({
      name: "firkin_lifecycle_seconds",
      help: "Latency of the spans of a sandbox's life",
      labelNames: ["span", "engine", "acceleration"],
      buckets: latencyBucketsSeconds,
      registers,
    }),
    sandboxes: new Gauge({ name: "firkin_sandboxes", help: "Sandboxes by state", labelNames: ["state"], registers }),
    sandboxesCreated: new Counter({
      name: "firkin_sandboxes_created_total",
      help: "Create requests by outcome",
      labelNames: ["outcome"],
      registers,
    }),
    sandboxesEnded: new Counter({
      name: "firkin_sandboxes_ended_total",
      help: "Sandboxes that came to an end, by reason",
      labelNames: ["reason"],
      registers,
    }),
    capacity: new Gauge({
      name: "firkin_capacity",
      help: "Capacity by budget: reserved and limit",
      labelNames: ["budget", "kind"],
      registers,
    }),
    admissions: new Counter({
      name: "firkin_admissions_total",
      help: "Answers to requests for capacity",
      labelNames: ["answer"],
      registers,
    }),
    admissionQueue: new Gauge({
      name: "firkin_admission_queue",
      help: "Creates that wait for capacity",
      registers,
    }),
    warmPoolCheckouts: new Counter({
      name: "firkin_warm_pool_checkouts_total",
      help: "Creates that asked the warm pool: hit, miss, or hit a machine that failed its probe",
      labelNames: ["outcome"],
      registers,
    }),
    warmPoolDepth: new Gauge({
      name: "firkin_warm_pool_depth",
      help: "Warm machines by state",
      labelNames: ["state"],
      registers,
    }),
    warmPoolDiscards: new Counter({
      name: "firkin_warm_pool_discards_total",
      help: "Warm machines that nobody got, by reason",
      labelNames: ["reason"],
      registers,
    }),
    warmPoolRefillSeconds: new Histogram({
      name: "firkin_warm_pool_refill_seconds",
      help: "From a reservation to a warm machine that has run a command",
      buckets: latencyBucketsSeconds,
      registers,
    }),
    backgroundErrors: new Counter({
      name: "firkin_background_errors_total",
      help: "Errors in background loops",
      labelNames: ["loop"],
      registers,
    }),
    reconciled: new Counter({
      name: "firkin_reconciled_total",
      help: "Outcomes of restart reconciliation",
      labelNames: ["outcome"],
      registers,
    }),
    quarantined: new Gauge({
      name: "firkin_quarantine_entries",
      help: "What waits in quarantine, by kind",
      labelNames: ["kind"],
      registers,
    }),
    snapshotChecks: new Counter({
      name: "firkin_snapshot_checks_total",
      help: "Snapshots whose files were checked, by outcome",
      labelNames: ["outcome"],
      registers,
    }),
    artifactsCollected: new Counter({
      name: "firkin_artifacts_collected_total",
      help: "Unneeded files that were removed because the disk was nearly full, by kind",
      labelNames: ["kind"],
      registers,
    }),
    snapshotsToCheck: new Gauge({
      name: "firkin_snapshots_to_check",
      help: "Snapshots that the check in the background has not read yet",
      registers,
    }),
  };
}
