/**
 * The reconciliation makes ledger and host agree when a daemon starts. In order, it adopts the sandboxes and warm
 * machines that still answer, shows the sandboxes that are paused, ends sandboxes that were half-made or half-ended,
 * removes the remains of machines and snapshots without an owner, and sets files aside that it cannot name. The daemon
 * listens only after that. This room runs once, before any request; it may call machines, pool and sandboxes.
 */
import type { Dirent } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "../../errors.ts";
import { factsOf } from "../../guest-machine/save.ts";
import { listUnownedReservations, release } from "../../ledger/capacity.ts";
import type { Ledger } from "../../ledger/open.ts";
import { listSandboxes, moveSandbox } from "../../ledger/sandboxes.ts";
import {
  deleteContinuation,
  deleteSnapshot,
  findContinuationInMaking,
  getSnapshot,
  listSnapshots,
  listStrayContinuations,
  type SnapshotFacts,
  type SnapshotRecord,
} from "../../ledger/snapshots.ts";
import { listBuildingJobs } from "../../ledger/template-builds.ts";
import { listHeldWarmEntries } from "../../ledger/warm-entries.ts";
import { isSessionId } from "../../machine/driver.ts";
import { isSnapshotId, readSnapshot, removeSnapshot, stagingOf } from "../../machine/snapshot-files.ts";
import type { MachineRecord, SandboxRecord } from "../../types.ts";
import type { RuntimeDependencies } from "../dependencies.ts";
import type { Quarantine } from "../machines/quarantine.ts";
import { publishPause } from "../sandboxes/saved-pauses.ts";
import { type Adoption, adoptPausedInMemory, adoptRunning, type TakeoverParts } from "./adopt.ts";
import { reconcileWarmPool } from "./warm-pool.ts";

/** What to do with a sandbox found in the ledger. */
export type SandboxDecision =
  | { readonly action: "adopt"; readonly machine: MachineRecord }
  /** The sandbox rests in a snapshot. The machine that it was saved from may not have ended yet. */
  | { readonly action: "list" }
  /** The sandbox was being paused. If its snapshot is complete its machine was ending, else the machine may go on. */
  | { readonly action: "finish_or_undo_pause"; readonly machine: MachineRecord }
  /** The sandbox is paused in memory and may have been being saved. Without a snapshot its machine stands still. */
  | { readonly action: "finish_or_keep_pause"; readonly machine: MachineRecord }
  /** The sandbox was being resumed. Its snapshot is whole, whatever became of the machine. */
  | { readonly action: "undo_resume"; readonly machine: MachineRecord | null }
  | { readonly action: "clean_up"; readonly machine: MachineRecord | null };

export interface ReconciliationSummary {
  readonly adopted: number;
  readonly paused: number;
  readonly cleanedUp: number;
  /** Sandboxes that ran, and their machines are gone. */
  readonly lost: number;
  /** Sandboxes whose machines live and do not answer yet. */
  readonly unanswering: number;
  readonly orphanFolders: number;
  readonly warmAdopted: number;
  readonly warmDiscarded: number;
  readonly snapshots: number;
  readonly reservations: number;
  readonly quarantined: number;
}

/** Decides about a sandbox: one that a client knows is kept, one that was being made or ended is ended. Pure. */
function decide({ state, machine }: SandboxRecord): SandboxDecision {
  if (state === "running" && machine) return { action: "adopt", machine };
  if (state === "pausing" && machine) return { action: "finish_or_undo_pause", machine };
  if (state === "paused_in_memory" && machine) return { action: "finish_or_keep_pause", machine };
  if (state === "paused") return { action: "list" };
  if (state === "resuming") return { action: "undo_resume", machine };
  return { action: "clean_up", machine };
}

export async function reconcile(
  deps: RuntimeDependencies,
  parts: TakeoverParts,
  machinesFolder: string,
): Promise<ReconciliationSummary> {
  for (const folder of [machinesFolder, deps.snapshotsFolder]) await mkdir(folder, { recursive: true, mode: 0o700 });
  await deps.quarantine.open();
  const records = listSandboxes(deps.ledger);
  const outcomes = await Promise.all(records.map((record) => reconcileSandbox(deps, parts, record)));
  const warm = listHeldWarmEntries(deps.ledger);
  // The builds that are left are those with a machine that has not gone yet.
  const owners = [...records, ...warm, ...listBuildingJobs(deps.ledger)];
  const owned = new Set(owners.flatMap(({ machine }) => (machine ? [machine.sessionId] : [])));
  const orphans = await discardOrphans(deps, owned, machinesFolder);
  const strays = deps.quarantine.noteMachines(deps.driver.findStrays(owned));
  const warmAdopted = await reconcileWarmPool(deps, warm);
  const count = (wanted: Outcome) => outcomes.filter((outcome) => outcome === wanted).length;
  const halfMade = await discardHalfMade(deps);
  const summary = {
    adopted: count("adopted"),
    paused: count("paused"),
    cleanedUp: count("cleaned_up"),
    lost: count("lost"),
    orphanFolders: orphans.removed,
    warmAdopted,
    warmDiscarded: warm.length - warmAdopted,
    snapshots: halfMade.removed,
    reservations: listUnownedReservations(deps.ledger).filter(({ id }) => release(deps.ledger, id)).length,
    quarantined: orphans.setAside + strays + halfMade.setAside,
    unanswering: count("unanswering"),
  };
  for (const [outcome, n] of Object.entries(summary)) deps.metrics.reconciled.inc({ outcome }, n);
  deps.log.info(summary, "reconciled with what an earlier daemon left");
  return summary;
}

type Outcome = Adoption | "cleaned_up";

async function reconcileSandbox(
  deps: RuntimeDependencies,
  parts: TakeoverParts,
  record: SandboxRecord,
): Promise<Outcome> {
  const decision = decide(record);
  const { driver, ledger, unfinishedWork } = deps;
  switch (decision.action) {
    case "adopt":
      return adoptRunning(deps, parts, record, decision.machine);
    case "finish_or_undo_pause":
    case "finish_or_keep_pause": {
      const saved = await findSaved(deps, record);
      if (!saved) {
        const adopt = decision.action === "finish_or_undo_pause" ? adoptRunning : adoptPausedInMemory;
        return adopt(deps, parts, record, decision.machine);
      }
      const pausedAtMs = record.state === "pausing" ? deps.clock.nowMs() : record.endAtMs;
      // The machine has not run since the save, and may be half-ended.
      await begin(deps, record, async () =>
        showPaused(deps, parts, publishPause(ledger, { record, ...saved, pausedAtMs })),
      );
      return "paused";
    }
    case "list":
      showPaused(deps, parts, record);
      return "paused";
    case "undo_resume":
      await begin(deps, record, async () => {
        if (decision.machine) await driver.discard(decision.machine);
        parts.sessions.showWithoutSession(moveSandbox(ledger, record.id, "resuming", "paused", { machine: null }));
      });
      return "paused";
    case "clean_up":
      unfinishedWork.terminate(record, async () => {
        if (decision.machine) await driver.discard(decision.machine);
      });
      return "cleaned_up";
    default:
      return decision satisfies never;
  }
}

function showPaused({ driver }: RuntimeDependencies, parts: TakeoverParts, record: SandboxRecord): void {
  const { id, machine } = record;
  parts.sessions.showWithoutSession(record);
  if (machine) parts.savedPauses.endMachine(id, machine.sessionId, () => driver.discard(machine));
}

/**
 * Tries a step until it succeeds, and waits for the first try only, because one machine that cannot be ended must not
 * keep the daemon from serving the others. Until the step succeeds its sandbox is not shown, and keeps its capacity.
 */
function begin(
  { unfinishedWork }: RuntimeDependencies,
  { id }: SandboxRecord,
  step: () => Promise<void>,
): Promise<void> {
  return new Promise((resolve) => unfinishedWork.finish({ sandboxID: id }, () => step().finally(resolve)));
}

/** The snapshot that a sandbox was being paused into, if the snapshot is complete and so has all of the sandbox. */
async function findSaved(
  { ledger, log }: RuntimeDependencies,
  { id }: SandboxRecord,
): Promise<{ readonly snapshot: SnapshotRecord; readonly facts: SnapshotFacts } | undefined> {
  const snapshot = findContinuationInMaking(ledger, id);
  if (!snapshot) return undefined;
  try {
    return { snapshot, facts: factsOf(await readSnapshot(snapshot.folder)) };
  } catch (error) {
    log.warn({ sandboxID: id, reason: messageOf(error) }, "the pause of the sandbox cannot be finished");
    return undefined;
  }
}

interface ClearanceCount {
  readonly removed: number;
  readonly setAside: number;
}

/** Removes the folders of machines without an owner, left by a daemon that died before it wrote the machine down. */
async function discardOrphans(
  { driver, log, quarantine }: RuntimeDependencies,
  owned: ReadonlySet<string>,
  machinesFolder: string,
): Promise<ClearanceCount> {
  const cleared = { removed: 0, setAside: 0 };
  for (const entry of await readdir(machinesFolder, { withFileTypes: true })) {
    const { name: sessionId } = entry;
    if (owned.has(sessionId)) continue;
    const folder = join(machinesFolder, sessionId);
    if (!entry.isDirectory() || !isSessionId(sessionId)) {
      const kind = entry.isDirectory() ? "folder" : "file";
      if (await setAside(quarantine, log, folder, kind, "it was among the machines, and is none"))
        cleared.setAside += 1;
      continue;
    }
    cleared.removed += 1;
    log.warn({ folder }, "removing a machine without an owner");
    try {
      await driver.discard({ engine: driver.info.engine, sessionId, folder, processes: [] });
    } catch (error) {
      log.error({ err: error, folder }, "the machine cannot be removed; the next start tries again");
    }
  }
  return cleared;
}

/**
 * Moves a file into the quarantine. A file that cannot be moved stays where it is, and the daemon starts all the same.
 */
async function setAside(
  quarantine: Quarantine,
  log: RuntimeDependencies["log"],
  ...[path, kind, reason]: Parameters<Quarantine["setAside"]>
): Promise<boolean> {
  try {
    return await quarantine.setAside(path, kind, reason);
  } catch (error) {
    log.error({ err: error, path }, "the unknown file cannot be set aside");
    return false;
  }
}

/** Removes half-made snapshots, continuations of no use any more, and folders that no snapshot owns. */
async function discardHalfMade({
  ledger,
  log,
  snapshotsFolder,
  quarantine,
}: RuntimeDependencies): Promise<ClearanceCount> {
  const strays = listStrayContinuations(ledger);
  for (const { id } of strays) deleteContinuation(ledger, id);
  const halfMade = listSnapshots(ledger, ["making"]).filter(({ kind }) => kind === "template");
  for (const { id } of halfMade) deleteSnapshot(ledger, id);
  const owned = new Set(listSnapshots(ledger, ["making", "ready", "quarantined"]).map(({ folder }) => folder));
  const removed = new Set([...strays, ...halfMade].map(({ id }) => id));
  let asideCount = 0;
  await ledger.sync();
  for (const entry of await readdir(snapshotsFolder, { withFileTypes: true })) {
    const folder = join(snapshotsFolder, entry.name);
    if (owned.has(folder)) continue;
    const unknown = await whyUnknown(ledger, folder, entry);
    if (unknown) {
      const kind = entry.isDirectory() ? "folder" : "file";
      if (await setAside(quarantine, log, folder, kind, unknown)) asideCount += 1;
      continue;
    }
    removed.add(entry.name.replace(/\.staging$/, ""));
    log.warn({ folder }, "removing a snapshot that is not needed or was never completed");
    try {
      if (!folder.endsWith(stagingOf(""))) await removeSnapshot(folder);
      else await rm(folder, { recursive: true, force: true });
    } catch (error) {
      log.error({ err: error, folder }, "the snapshot cannot be removed; the next start tries again");
    }
  }
  return { removed: removed.size, setAside: asideCount };
}

/**
 * Why the daemon may not remove a file or folder among the snapshots; undefined for the remains of a save or a removal
 * that was cut short.
 */
async function whyUnknown(ledger: Ledger, folder: string, entry: Dirent): Promise<string | undefined> {
  const id = entry.name.replace(/\.staging$/, "");
  if (getSnapshot(ledger, id)) return undefined;
  if (!entry.isDirectory() || !isSnapshotId(id)) return "it was among the snapshots, and is none";
  if (id !== entry.name) return undefined;
  try {
    await readSnapshot(folder);
    return "it is a whole snapshot, and the ledger has never heard of it";
  } catch {
    return undefined;
  }
}
