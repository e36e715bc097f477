/** The remains of a recorded VM, its processes and its folder, and their removal. */
import { rm } from "node:fs/promises";
import type { MachineRecord } from "../types.ts";
import { endProcess, waitUntilGone } from "./processes.ts";

/**
 * Ends every process of the record that still runs and removes the VM's folder. Idempotent.
 * @param graceMs how long processes of the network may take before they are killed; they end with their engine
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
