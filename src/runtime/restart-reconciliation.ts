/**
 * The seed's RestartReconciliation: what a daemon that starts makes of what an earlier one left, in order: adopt the
 * sandboxes and warm machines that still answer, clean up what was half-made or is no more, and remove machine folders that
 * nobody owns. The daemon listens only after that.
 */
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "../errors.ts";
import { listUnownedReservations, release } from "../ledger/capacity.ts";
import { listSandboxes, moveSandbox } from "../ledger/sandboxes.ts";
import { deleteSnapshot, listSnapshots } from "../ledger/snapshots.ts";
import { listHeldWarmEntries, type WarmEntry } from "../ledger/warm-entries.ts";
import type { VmDriver } from "../machine/driver.ts";
import { removeSnapshot } from "../machine/snapshot-files.ts";
import type { MachineRecord, SandboxRecord } from "../types.ts";
import { openGuestAgent } from "./readiness-probe.ts";
import type { RuntimeDependencies, SandboxRuntime } from "./sandbox-runtime.ts";
import { reconcileWarmPool } from "./warm-pool-reconciliation.ts";

/** What to do with a sandbox found in the ledger. */
export type Decision =
  | { readonly action: "adopt"; readonly machine: MachineRecord }
  | { readonly action: "clean_up"; readonly machine: MachineRecord | null };

export interface ReconciliationSummary {
  readonly adopted: number;
  readonly cleanedUp: number;
  /** Sandboxes that ran, but whose machine is gone or does not answer. */
  readonly lost: number;
  readonly orphanFolders: number;
  readonly warmAdopted: number;
  readonly warmDiscarded: number;
  readonly snapshots: number;
  readonly reservations: number;
}

/** Pure: a running sandbox is worth adopting, everything else was on its way in or out and is ended. */
export function decide({ state, machine }: SandboxRecord): Decision {
  if (state === "running" && machine) return { action: "adopt", machine };
  return { action: "clean_up", machine };
}

export async function reconcile(
  deps: RuntimeDependencies,
  runtime: SandboxRuntime,
  machinesFolder: string,
): Promise<ReconciliationSummary> {
  await mkdir(machinesFolder, { recursive: true, mode: 0o700 });
  const records = listSandboxes(deps.ledger);
  const outcomes = await Promise.all(records.map((record) => reconcileSandbox(deps, runtime, record)));
  const warm = listHeldWarmEntries(deps.ledger);
  const orphanFolders = await discardOrphans(deps, [...records, ...warm], machinesFolder);
  const warmAdopted = await reconcileWarmPool(deps, warm);
  const count = (wanted: Outcome) => outcomes.filter((outcome) => outcome === wanted).length;
  const summary = {
    adopted: count("adopted"),
    cleanedUp: count("cleaned_up"),
    lost: count("lost"),
    orphanFolders,
    warmAdopted,
    warmDiscarded: warm.length - warmAdopted,
    snapshots: await deleteHalfMade(deps),
    reservations: listUnownedReservations(deps.ledger).filter(({ id }) => release(deps.ledger, id)).length,
  };
  for (const [outcome, n] of Object.entries(summary)) deps.metrics.reconciled.inc({ outcome }, n);
  deps.log.info(summary, "reconciled with what an earlier daemon left");
  return summary;
}

type Outcome = "adopted" | "cleaned_up" | "lost";

async function reconcileSandbox(
  deps: RuntimeDependencies,
  runtime: SandboxRuntime,
  record: SandboxRecord,
): Promise<Outcome> {
  const decision = decide(record);
  const { driver, ledger, log, terminator } = deps;
  if (decision.action === "adopt") {
    try {
      await adopt(deps, runtime, record, decision.machine);
      return "adopted";
    } catch (error) {
      log.warn({ sandboxID: record.id, reason: messageOf(error) }, "sandbox cannot be adopted");
      const ending = moveSandbox(ledger, record.id, "running", "terminating", { endReason: "lost" });
      terminator.terminate(ending, () => driver.discard(decision.machine));
      return "lost";
    }
  }
  terminator.terminate(record, async () => {
    if (decision.machine) await driver.discard(decision.machine);
  });
  return "cleaned_up";
}

async function adopt(
  { driver, clock, log }: RuntimeDependencies,
  runtime: SandboxRuntime,
  record: SandboxRecord,
  machine: MachineRecord,
): Promise<void> {
  const vm = await driver.adopt(machine);
  if (!vm) throw new Error("its machine is gone");
  try {
    runtime.adopt(record, { vm, agent: await openGuestAgent(vm, clock, log) });
  } catch (error) {
    await vm.release();
    throw error;
  }
}

/** Folders of machines that nobody in the ledger owns: the daemon died between making one and writing it down. */
async function discardOrphans(
  { driver, log }: { driver: VmDriver; log: RuntimeDependencies["log"] },
  owners: readonly Pick<SandboxRecord | WarmEntry, "machine">[],
  machinesFolder: string,
): Promise<number> {
  const owned = new Set(owners.map(({ machine }) => machine?.sessionId));
  const orphans = (await readdir(machinesFolder)).filter((sessionId) => !owned.has(sessionId));
  for (const sessionId of orphans) {
    const folder = join(machinesFolder, sessionId);
    log.warn({ folder }, "removing a machine that nobody owns");
    try {
      await driver.discard({ engine: driver.info.engine, sessionId, folder, processes: [] });
    } catch (error) {
      log.error({ err: error, folder }, "it cannot be removed; the next start tries again");
    }
  }
  return orphans.length;
}

/** A snapshot that was being made when the daemon died is never restored from: it goes, with its files. */
async function deleteHalfMade({ ledger, log }: Pick<RuntimeDependencies, "ledger" | "log">): Promise<number> {
  const halfMade = listSnapshots(ledger, ["making"]);
  for (const { id, folder } of halfMade) {
    log.warn({ snapshotID: id, folder }, "removing a snapshot that was never finished");
    await removeSnapshot(folder);
    deleteSnapshot(ledger, id);
  }
  return halfMade.length;
}
