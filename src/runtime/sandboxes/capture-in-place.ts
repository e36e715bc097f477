/**
 * The capture of a running sandbox that goes on: its machine stops for the save, and continues whatever comes of it.
 */
import { deleteSnapshot, type SnapshotFacts, type SnapshotRecord } from "../../ledger/snapshots.ts";
import { removeSnapshot } from "../../machine/snapshot-files.ts";
import { captureSession } from "../machines/capture.ts";
import type { LiveSession } from "../sessions/live-session.ts";
import type { SandboxContext } from "./context.ts";

/**
 * Saves a session's machine and publishes the snapshot.
 * @throws what the engine or `publish` throws; the sandbox goes on, and the snapshot is removed in the background
 */
export async function captureInPlace(
  { deps }: SandboxContext,
  session: LiveSession,
  snapshot: SnapshotRecord,
  { scenario, publish }: { readonly scenario: "fork" | "snapshot"; readonly publish: (facts: SnapshotFacts) => void },
): Promise<void> {
  session.isStopped = true;
  try {
    const capturing = captureSession(deps, session, snapshot, { isLast: false, scenario });
    publish(await capturing.finally(() => session.vm.resume()));
    deps.reach(`${scenario}.published`);
  } catch (error) {
    const { ledger, unfinishedWork } = deps;
    unfinishedWork.finish({ snapshotID: snapshot.id }, async () => {
      deleteSnapshot(ledger, snapshot.id);
      await removeSnapshot(snapshot.folder);
    });
    throw error;
  } finally {
    session.isStopped = false;
  }
}
