/** The wiring of the daemon: the parts below the runtime, made from the settings. */
import { join } from "node:path";
import { systemClock } from "./clock.ts";
import type { Config } from "./config.ts";
import { deriveAccessToken, newAccessToken } from "./e2b/access-token.ts";
import { newSandboxId, newTemplateId } from "./e2b/ids.ts";
import { keepDerivedTokens } from "./ledger/access-tokens.ts";
import { recordSamples } from "./ledger/samples.ts";
import { watchSteps } from "./lifecycle-steps.ts";
import { createMetrics, type Metrics } from "./metrics.ts";
import { runSetup } from "./run-setup.ts";
import { Admission } from "./runtime/capacity/admission.ts";
import { DiskPressureGuard } from "./runtime/capacity/disk-guard.ts";
import type { RuntimeDependencies } from "./runtime/dependencies.ts";
import { LifecycleSamples } from "./runtime/lifecycle-samples.ts";
import { Quarantine } from "./runtime/machines/quarantine.ts";
import { UnfinishedWork } from "./runtime/machines/unfinished-work.ts";
import { joinSources, SnapshotShelf } from "./runtime/pool/snapshot-shelf.ts";
import { WarmPool } from "./runtime/pool/warm-pool.ts";
import { SandboxLogs } from "./runtime/records/sandbox-logs.ts";
import { CodeInterpreterTemplate } from "./template/base/code-interpreter.ts";

/** What the runtime stands on, with what the daemon's loops work on besides. */
export type WiredDependencies = RuntimeDependencies & { readonly wantedTemplates: CodeInterpreterTemplate };

/** Makes what the runtime stands on, over what the daemon has opened. */
export function wireRuntime(
  config: Config,
  opened: Pick<RuntimeDependencies, "ledger" | "driver" | "chosenBecause" | "assets" | "trust" | "log">,
): WiredDependencies {
  const { ledger, driver, log } = opened;
  const clock = systemClock;
  const metrics: Metrics = createMetrics();
  // No setting: only test runs order faults.
  const reach = watchSteps(process.env.FIRKIN_FAULT_ORDER);
  keepDerivedTokens(ledger, deriveAccessToken);
  const basis = {
    ...opened,
    clock,
    metrics,
    samples: new LifecycleSamples(clock, driver.info, metrics, (samples) => recordSamples(ledger, samples)),
    disk: new DiskPressureGuard(config.stateDir, {
      restoreMiB: config.diskFloorMiB,
      saveMiB: config.saveDiskFloorMiB,
      refillMiB: config.refillDiskFloorMiB,
      writeMiB: config.writeDiskFloorMiB,
    }),
    guestDiskMiB: config.guestDiskMiB,
    logs: new SandboxLogs(ledger, clock),
    unfinishedWork: new UnfinishedWork({ ledger, clock, log, metrics, reach }),
    reach,
    stuckAfterMs: config.stuckAfterSeconds * 1000,
    budgets: {
      vcpuCount: config.vcpuBudget,
      memoryMiB: config.memoryBudgetMiB,
      diskMiB: config.diskBudgetMiB,
      sandboxes: config.maxSandboxes,
    },
    snapshotsFolder: join(config.stateDir, "snapshots"),
    quarantine: new Quarantine({ ...opened, metrics, folder: join(config.stateDir, "quarantine") }),
  };
  const wantedTemplates = new CodeInterpreterTemplate({
    ...basis,
    newTemplateId,
    cacheDir: config.cacheDir,
    wanted: config.codeInterpreter,
    admitDisk: (work) => basis.disk.admit(work),
    recordSample: (span, ms) => basis.samples.record(span, "base_template", ms, null),
    makeDisk: (onLine, signal) =>
      runSetup(["template", "add", "code-interpreter", "--disk-only"], config.cacheDir, onLine, signal),
  });
  const warmPool = new WarmPool(basis, { min: config.warmPoolMin, max: config.warmPoolMax });
  const shelf = new SnapshotShelf({ ...basis, warmPool });
  const bounds = { limit: config.queueLimit, timeoutMs: config.queueTimeoutMs };
  return {
    ...basis,
    wantedTemplates,
    warmPool,
    shelf,
    admission: new Admission({ ...basis, bounds, pool: joinSources(shelf, warmPool) }),
    newSandboxId: () => newSandboxId(config.nodeTag),
    newTemplateId,
    newAccessToken,
  };
}
