/** The metrics of the daemon, all in one place. Label values come from closed sets and are never a sandbox's id. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";

/**
 * From half a millisecond to five minutes, because a pool hit takes less than 1 ms and a cold template build minutes.
 */
const latencyBucketsSeconds = [
  0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
];

export type Metrics = ReturnType<typeof createMetrics>;

export function createMetrics() {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, prefix: "firkin_" });
  // These gauges are named like counters, which promtool refuses. The same figures by type stay.
  for (const kind of ["handles", "requests", "resources"]) {
    registry.removeSingleMetric(`firkin_nodejs_active_${kind}_total`);
  }
  const registers = [registry];
  return {
    registry,
    ...sandboxMetrics(registers),
    ...capacityMetrics(registers),
    ...warmPoolMetrics(registers),
    ...templateMetrics(registers),
    ...upkeepMetrics(registers),
  };
}

/** The life of sandboxes. */
function sandboxMetrics(registers: Registry[]) {
  return {
    lifecycleSeconds: new Histogram({
      name: "firkin_lifecycle_seconds",
      help: "Latency of the spans of a sandbox's life",
      labelNames: ["span", "engine", "acceleration"],
      buckets: latencyBucketsSeconds,
      registers,
    }),
    sandboxes: new Gauge({ name: "firkin_sandboxes", help: "Sandboxes by state", labelNames: ["state"], registers }),
    sandboxesWaitingForDisk: new Gauge({
      name: "firkin_sandboxes_waiting_for_disk",
      help: "Running sandboxes that stand still until the host's disk has room",
      registers,
    }),
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
  };
}

/** Capacity, and the creates that ask for it. */
function capacityMetrics(registers: Registry[]) {
  return {
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
  };
}

/** The warm pool. */
function warmPoolMetrics(registers: Registry[]) {
  return {
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
      help: "Warm machines that no create got, by reason",
      labelNames: ["reason"],
      registers,
    }),
    warmPoolRefillSeconds: new Histogram({
      name: "firkin_warm_pool_refill_seconds",
      help: "From a reservation to a warm machine that has run a command",
      buckets: latencyBucketsSeconds,
      registers,
    }),
  };
}

/** The builds of templates, and the caches that save them work. */
function templateMetrics(registers: Registry[]) {
  return {
    buildSteps: new Counter({
      name: "firkin_build_steps_total",
      help: "Steps of builds: run, or cached by an earlier build",
      labelNames: ["result"],
      registers,
    }),
    buildCacheBytes: new Gauge({
      name: "firkin_build_cache_bytes",
      help: "Disk that the snapshots of build steps take",
      registers,
    }),
    images: new Counter({
      name: "firkin_images_total",
      help: "Images that builds asked for: pulled, or cached as a disk",
      labelNames: ["result"],
      registers,
    }),
    imagePulledBytes: new Counter({
      name: "firkin_image_pulled_bytes_total",
      help: "Bytes of images that came from registries and archives",
      registers,
    }),
  };
}

/** The work that no client asks for: loops, reconciliation, checks and collection. */
function upkeepMetrics(registers: Registry[]) {
  return {
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
      help: "Entries in quarantine, by kind",
      labelNames: ["kind"],
      registers,
    }),
    snapshotChecks: new Counter({
      name: "firkin_snapshot_checks_total",
      help: "Snapshots whose files were checked, by outcome",
      labelNames: ["outcome"],
      registers,
    }),
    snapshotsToCheck: new Gauge({
      name: "firkin_snapshots_to_check",
      help: "Snapshots that the check in the background has not read yet",
      registers,
    }),
    artifactsCollected: new Counter({
      name: "firkin_artifacts_collected_total",
      help: "Unneeded files that were removed because the disk was nearly full, by kind",
      labelNames: ["kind"],
      registers,
    }),
  };
}
