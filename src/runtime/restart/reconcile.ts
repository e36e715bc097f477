/**
 * The seed's RestartReconciliation: what a daemon that starts makes of what an earlier one left, in order: adopt the
 * sandboxes and warm machines that still answer, list the sandboxes that are paused, clean up what was half-made or is no
 * more, remove what is left of machines and snapshots that nobody owns, and set aside what cannot be named. The daemon
 * listens only after that.
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
import { publishPause } from "../sandboxes/saved-pause.ts";
import { type TakeoverParts, tryAdoptPausedInMemory, tryAdoptRunning } from "./adopt.ts";
import { reconcileWarmPool } from "./warm-pool.ts";

/** What to do with a sandbox found in the ledger. */
export type Decision =
  | { readonly action: "adopt"; readonly machine: MachineRecord }
  /** It rests in a snapshot. */
  | { readonly action: "list" }
  /** It was being paused: its snapshot may be complete, and then its machine was ending; else that may go on. */
  | { readonly action: "finish_or_undo_pause"; readonly machine: MachineRecord }
  /** It is paused in memory and was perhaps being saved: the same, but without a snapshot its machine stands still. */
  | { readonly action: "finish_or_keep_pause"; readonly machine: MachineRecord }
  /** It was being resumed: its snapshot is whole, whatever became of the machine. */
  | { readonly action: "undo_resume"; readonly machine: MachineRecord | null }
  | { readonly action: "clean_up"; readonly machine: MachineRecord | null };

export interface ReconciliationSummary {
  readonly adopted: number;
  readonly paused: number;
  readonly cleanedUp: number;
  /** Sandboxes that ran, but whose machine is gone or does not answer. */
  readonly lost: number;
  readonly orphanFolders: number;
  readonly warmAdopted: number;
  readonly warmDiscarded: number;
  readonly snapshots: number;
  readonly reservations: number;
  readonly quarantined: number;
}

/** Pure: what a client was told it has is kept, what was on its way in or out is ended. */
function decide({ state, machine }: SandboxRecord): Decision {
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
  // Of builds are left those whose machine has not gone yet.
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
  };
  for (const [outcome, n] of Object.entries(summary)) deps.metrics.reconciled.inc({ outcome }, n);
  deps.log.info(summary, "reconciled with what an earlier daemon left");
  return summary;
}

type Outcome = "adopted" | "paused" | "cleaned_up" | "lost";

async function reconcileSandbox(
  deps: RuntimeDependencies,
  parts: TakeoverParts,
  record: SandboxRecord,
): Promise<Outcome> {
  const decision = decide(record);
  const { driver, ledger, terminator } = deps;
  switch (decision.action) {
    case "adopt":
      return (await tryAdoptRunning(deps, parts, record, decision.machine)) ?? lose(deps, parts, record);
    case "finish_or_undo_pause":
    case "finish_or_keep_pause": {
      const saved = await findSaved(deps, record);
      if (!saved) {
        const take = decision.action === "finish_or_undo_pause" ? tryAdoptRunning : tryAdoptPausedInMemory;
        return (await take(deps, parts, record, decision.machine)) ?? lose(deps, parts, record);
      }
      // The machine has not run since, and may be half-ended.
      await begin(deps, record, async () => {
        await driver.discard(decision.machine);
        const pausedAtMs = record.state === "pausing" ? deps.clock.nowMs() : record.endAtMs;
        parts.sessions.showPaused(publishPause(ledger, { record, ...saved, pausedAtMs }));
      });
      return "paused";
    }
    case "list":
      parts.sessions.showPaused(record);
      return "paused";
    case "undo_resume":
      await begin(deps, record, async () => {
        if (decision.machine) await driver.discard(decision.machine);
        parts.sessions.showPaused(moveSandbox(ledger, record.id, "resuming", "paused", { machine: null }));
      });
      return "paused";
    case "clean_up":
      terminator.terminate(record, async () => {
        if (decision.machine) await driver.discard(decision.machine);
      });
      return "cleaned_up";
    default:
      return decision satisfies never;
  }
}

function lose({ driver }: RuntimeDependencies, { departures }: TakeoverParts, record: SandboxRecord): Outcome {
  const { state, machine } = record;
  departures.leave({
    record,
    reason: "lost",
    ...(state === "paused_in_memory" && { loss: "The sandbox was paused in memory only, and its machine is gone" }),
    endMachine: async () => {
      if (machine) await driver.discard(machine);
    },
  });
  return "lost";
}

/**
 * Takes a step that is tried until it succeeds, and waits for the first try only: one machine that does not go must not
 * keep the daemon from serving the others. Until then its sandbox is not shown, and keeps its capacity.
 */
function begin({ terminator }: RuntimeDependencies, { id }: SandboxRecord, step: () => Promise<void>): Promise<void> {
  return new Promise((resolve) => terminator.finish({ sandboxID: id }, () => step().finally(resolve)));
}

/** The snapshot that a sandbox was being paused into, if it is complete: then it has all of the sandbox. */
async function findSaved(
  { ledger, log }: RuntimeDependencies,
  { id }: SandboxRecord,
): Promise<{ readonly snapshot: SnapshotRecord; readonly facts: SnapshotFacts } | undefined> {
  const snapshot = findContinuationInMaking(ledger, id);
  if (!snapshot) return undefined;
  try {
    return { snapshot, facts: factsOf(await readSnapshot(snapshot.folder)) };
  } catch (error) {
    log.warn({ sandboxID: id, reason: messageOf(error) }, "a sandbox's pause cannot be finished");
    return undefined;
  }
}

interface Cleared {
  readonly removed: number;
  readonly setAside: number;
}

/** Folders of machines that nobody in the ledger owns: the daemon died between making one and writing it down. */
async function discardOrphans(
  { driver, log, quarantine }: RuntimeDependencies,
  owned: ReadonlySet<string>,
  machinesFolder: string,
): Promise<Cleared> {
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
    log.warn({ folder }, "removing a machine that nobody owns");
    try {
      await driver.discard({ engine: driver.info.engine, sessionId, folder, processes: [] });
    } catch (error) {
      log.error({ err: error, folder }, "it cannot be removed; the next start tries again");
    }
  }
  return cleared;
}

/** What cannot be moved, or does not fit, stays where it is and is nobody's: the daemon starts all the same. */
async function setAside(
  quarantine: Quarantine,
  log: RuntimeDependencies["log"],
  ...[path, kind, reason]: Parameters<Quarantine["setAside"]>
): Promise<boolean> {
  try {
    return await quarantine.setAside(path, kind, reason);
  } catch (error) {
    log.error({ err: error, path }, "what cannot be named cannot be set aside either");
    return false;
  }
}

/** What was being made when the daemon died, continuations of no use any more, and folders that no snapshot owns. */
async function discardHalfMade({ ledger, log, snapshotsFolder, quarantine }: RuntimeDependencies): Promise<Cleared> {
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
    log.warn({ folder }, "removing a snapshot that nobody needs or that was never completed");
    try {
      if (!folder.endsWith(stagingOf(""))) await removeSnapshot(folder);
      else await rm(folder, { recursive: true, force: true });
    } catch (error) {
      log.error({ err: error, folder }, "it cannot be removed; the next start tries again");
    }
  }
  return { removed: removed.size, setAside: asideCount };
}

/**
 * Why something among the snapshots is not ours to remove; undefined when it is what a save or a removal left that was
 * cut short.
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
