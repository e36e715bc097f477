/** The loops of the daemon: what it does all the time, besides the requests of clients. */
import { backUpIfDue } from "./ledger/backups.ts";
import { purgeEnded } from "./ledger/history.ts";
import { runEvery } from "./run-every.ts";
import type { RuntimeDependencies } from "./runtime/dependencies.ts";
import { checkSnapshots } from "./runtime/machines/integrity.ts";
import type { DrivenRuntime } from "./runtime/runtime.ts";
import type { Scope } from "./scope.ts";
import type { Keyring } from "./team/keyring.ts";
import type { TemplateBuilds } from "./template/build/builds.ts";
import { rebuildStale } from "./template/build/rebuild.ts";

const deadlineTickMs = 100;
const metricsTickMs = 5_000;
const heartbeatTickMs = 5_000;
const diskTickMs = 1_000;
const flushTickMs = 1_000;
/** After a crash the last uses of keys are no older than this. */
const keyUseTickMs = 60_000;
/** How often the age of the newest backup is looked at, because a daemon may run for less than an hour. */
const backupTickMs = 60_000;
const backupEveryMs = 3_600_000;
const historyTickMs = 3_600_000;
/** Sandboxes that ended stay in the ledger for a week, and only the newest of them. */
const keptHistoryMs = 7 * 86_400_000;
const keptSandboxes = 10_000;
const refillTickMs = 100;
const shelfTickMs = 1_000;
/** The longest time from the unlocking of a screen until sandboxes that are paused in memory are saved. */
const savePausedTickMs = 5_000;
/** The first creates after a start go before the check. */
const snapshotCheckDelayMs = 5_000;
const snapshotCheckMs = 24 * 3_600_000;
const freshnessTickMs = 3_600_000;

/** Runs a background loop for as long as the daemon runs; its failures are counted and logged. */
export type Every = (loop: string, intervalMs: number, tick: (signal: AbortSignal) => void | Promise<void>) => void;

export function loopsIn(
  scope: Scope,
  { clock, log, metrics }: Pick<RuntimeDependencies, "clock" | "log" | "metrics">,
): Every {
  return (loop, intervalMs, tick) => {
    const onError = (error: unknown) => {
      metrics.backgroundErrors.inc({ loop });
      log.error({ err: error, loop }, "background loop failed");
    };
    scope.use(runEvery(clock, intervalMs, tick, onError));
  };
}

/** What the background loops work on. */
export interface LoopTargets {
  readonly deps: RuntimeDependencies;
  readonly runtime: DrivenRuntime;
  readonly builds: TemplateBuilds;
  readonly keyring: Keyring;
  readonly templateMaxAgeDays: number | undefined;
}

export function startLoops(every: Every, { deps, runtime, builds, keyring, templateMaxAgeDays }: LoopTargets): void {
  const { ledger, clock, log, samples, logs, warmPool, shelf, stuckAfterMs } = deps;
  every("api_keys", keyUseTickMs, () => keyring.flush());
  const maxAgeMs = templateMaxAgeDays === undefined ? undefined : templateMaxAgeDays * 86_400_000;
  // Templates that cannot be rebuilt are tried again by the next daemon only.
  const freshness = { ledger, log, builds, maxAgeMs, tried: new Set<string>() };
  every("stale_templates", freshnessTickMs, (signal) => rebuildStale(freshness, signal));
  every("snapshot_check", snapshotCheckMs, async (signal) => {
    await clock.sleep(snapshotCheckDelayMs, signal);
    await checkSnapshots(deps, signal);
  });
  every("deadlines", deadlineTickMs, () => runtime.deadlines.expireDue());
  // Several heartbeats come before a machine may be given up.
  every("heartbeats", Math.min(heartbeatTickMs, stuckAfterMs / 3), () => runtime.checkHeartbeats());
  every("disk_waits", diskTickMs, () => runtime.diskWaits.check());
  every("sandbox_metrics", metricsTickMs, () => runtime.sampleMetrics());
  every("samples", flushTickMs, () => samples.flush());
  every("sandbox_logs", flushTickMs, () => logs.flush());
  every("ledger_backup", backupTickMs, async () => {
    const path = await backUpIfDue(ledger, backupEveryMs);
    if (path) log.info({ path }, "the ledger was backed up");
  });
  every("history", historyTickMs, () => {
    purgeEnded(ledger, { endedBeforeMs: clock.nowMs() - keptHistoryMs, keep: keptSandboxes });
  });
  every("paused_in_memory", savePausedTickMs, (signal) => runtime.inMemory.saveAll(signal));
  every("shelf", shelfTickMs, (signal) => shelf.maintain(signal));
  // The last loop is the first to stop, so that no machine is made ahead for a daemon that stops.
  every("warm_pool", refillTickMs, (signal) => warmPool.maintain(signal));
}
