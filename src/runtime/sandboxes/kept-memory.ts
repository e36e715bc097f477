/** Whether the pause of a sandbox saved its memory, and so whether a request may resume it. */
import type { Ledger } from "../../ledger/open.ts";
import { getSnapshot } from "../../ledger/snapshots.ts";
import type { SandboxRecord } from "../../types.ts";
import type { SandboxView } from "../contract.ts";

/** Whether a paused sandbox has its memory; undefined for a sandbox in any other state. */
export function keptMemory(ledger: Ledger, { state, snapshotId }: SandboxRecord): boolean | undefined {
  if (state === "paused_in_memory") return true;
  return state === "paused" ? hasMemory(ledger, snapshotId) : undefined;
}

/** A request does not wait for a boot: a sandbox without its memory comes back only when a client resumes it. */
export function isResumedByTraffic(ledger: Ledger, { record, state, keptMemory: hasKept }: SandboxView): boolean {
  if (state !== "paused" || !record.lifecycle.autoResume) return false;
  // A sandbox that is being paused still has the snapshot that it came from: the request waits for the pause to end.
  return (hasKept ?? hasMemory(ledger, record.snapshotId)) === true;
}

function hasMemory(ledger: Ledger, snapshotId: string): boolean | undefined {
  const facts = getSnapshot(ledger, snapshotId)?.facts;
  return facts ? facts.memoryBytes > 0 : undefined;
}
