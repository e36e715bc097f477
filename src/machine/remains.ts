/** What a recorded VM leaves behind, and taking it away. */
import { rm } from "node:fs/promises";
import type { MachineRecord } from "../types.ts";
import { endProcess, waitUntilGone } from "./processes.ts";

/**
 * Ends every process of the record that still runs and removes the VM's folder. Idempotent.
 * @param graceMs how long processes of the network, which end with their engine, may take before they are killed
 * @throws AggregateError, DomainError naming what could not be removed
 */
export async function removeRemains(record: MachineRecord, graceMs: number): Promise<void> {
  const results = await Promise.allSettled(
    record.processes.map(async (process) => {
      if (process.role === "network" && (await waitUntilGone(process, graceMs))) return;
      await endProcess(process, 0);
    }),
  );
  const errors = results.flatMap((result) => (result.status === "rejected" ? [result.reason as unknown] : []));
  if (errors.length > 0) throw new AggregateError(errors, `processes of ${record.sessionId} could not be ended`);
  await rm(record.folder, { recursive: true, force: true, maxRetries: 2 });
}
