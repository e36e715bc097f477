/**
 * The integrity of snapshots: a cheap check before each restore, and a check of every byte in the background. A damaged
 * snapshot is put in quarantine by name, and nothing is restored from it unless a later check finds it whole, because a
 * missing file was put back.
 */
import type { Clock } from "../../clock.ts";
import { DomainError, messageOf } from "../../errors.ts";
import type { Ledger } from "../../ledger/open.ts";
import {
  findSnapshotByFolder,
  getSnapshot,
  listSnapshots,
  quarantineSnapshot,
  releaseSnapshot,
  type SnapshotRecord,
} from "../../ledger/snapshots.ts";
import type { Logger } from "../../log.ts";
import type { SnapshotManifest } from "../../machine/driver.ts";
import { isDamage, readSnapshot, verifySnapshot } from "../../machine/snapshot-files.ts";
import type { Metrics } from "../../metrics.ts";

export interface IntegrityDependencies {
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/** Rest after each MiB that is read, so that other work goes first. */
const restMs = 2;

/**
 * Reads the manifest of a snapshot and checks that its files have their sizes.
 * @throws DomainError `failed_precondition` naming a damaged snapshot, which is in quarantine then
 */
export async function openSnapshot(deps: IntegrityDependencies, folder: string): Promise<SnapshotManifest> {
  try {
    return await readSnapshot(folder);
  } catch (error) {
    const snapshot = findSnapshotByFolder(deps.ledger, folder);
    if (!snapshot || !isDamage(error)) throw error;
    putInQuarantine(deps, snapshot, messageOf(error));
    const owner = `${snapshot.kind === "template" ? "template" : "sandbox"} ${snapshot.logicalId}`;
    const message = `Snapshot ${snapshot.id} of ${owner} cannot be restored: ${messageOf(error)}`;
    throw new DomainError("failed_precondition", message, { id: snapshot.id }, { cause: error });
  }
}

/**
 * Reads all files of all snapshots, slowly and one at a time. A file that several snapshots share is read once.
 * @throws the signal's reason
 */
export async function checkSnapshots(deps: IntegrityDependencies, signal: AbortSignal): Promise<void> {
  const { ledger, metrics, clock } = deps;
  const snapshots = listSnapshots(ledger, ["ready", "quarantined"]);
  const read = new Map<string, string>();
  for (const [at, snapshot] of snapshots.entries()) {
    metrics.snapshotsToCheck.set(snapshots.length - at);
    signal.throwIfAborted();
    const pace = () => clock.sleep(restMs, signal);
    await checkOne(deps, snapshot, { signal, pace, read });
  }
  metrics.snapshotsToCheck.set(0);
}

async function checkOne(
  deps: IntegrityDependencies,
  { id, folder }: SnapshotRecord,
  options: { readonly signal: AbortSignal; readonly pace: () => Promise<void>; readonly read: Map<string, string> },
): Promise<void> {
  const { ledger, metrics, log } = deps;
  // The snapshot may have been removed meanwhile, with its files.
  const current = () => {
    const found = getSnapshot(ledger, id);
    return found?.state === "ready" || found?.state === "quarantined" ? found : undefined;
  };
  if (!current()) return;
  try {
    await verifySnapshot(folder, await readSnapshot(folder), "full", options);
    const found = current();
    if (found?.state === "quarantined" && found.facts) {
      releaseSnapshot(ledger, id);
      metrics.snapshotChecks.inc({ outcome: "whole_again" });
      log.warn({ snapshotID: id }, "a damaged snapshot is whole again");
    } else metrics.snapshotChecks.inc({ outcome: "whole" });
  } catch (error) {
    options.signal.throwIfAborted();
    const found = current();
    if (!found || !isDamage(error)) {
      // A snapshot is not given up because it was removed meanwhile, or because its state cannot be read.
      if (found) throw error;
      return;
    }
    if (found.state === "ready") putInQuarantine(deps, found, messageOf(error));
  }
}

function putInQuarantine(
  { ledger, metrics, log }: IntegrityDependencies,
  snapshot: SnapshotRecord,
  reason: string,
): void {
  const { id, kind, logicalId, state } = snapshot;
  if (state !== "ready") return;
  quarantineSnapshot(ledger, id, reason);
  metrics.snapshotChecks.inc({ outcome: "damaged" });
  log.error({ snapshotID: id, kind, of: logicalId, reason }, "a snapshot is damaged and was put in quarantine");
}
