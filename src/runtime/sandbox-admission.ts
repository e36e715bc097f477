/** How a sandbox comes to be in the ledger, whatever it is made from. */
import type { Clock } from "../clock.ts";
import { type CapacityBudgets, reserve } from "../ledger/capacity.ts";
import type { Ledger } from "../ledger/open.ts";
import { insertSandbox, type NewSandbox } from "../ledger/sandboxes.ts";
import { recordSpawn } from "../ledger/templates.ts";
import type { SandboxRecord } from "../types.ts";

interface AdmissionDependencies {
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly budgets: CapacityBudgets;
}

/**
 * Gives a sandbox its share of the host, writes it down as `creating` from now on, and counts it for its template: all
 * of that or nothing.
 * @param reservationId the share of a warm machine, which is the sandbox's already
 * @throws capacity_exhausted; failed_precondition when its snapshot cannot be restored any more
 */
export function admitSandbox(
  { ledger, clock, budgets }: AdmissionDependencies,
  sandbox: Omit<NewSandbox, "startedAtMs" | "endAtMs" | "reservationId">,
  reservationId?: string,
): SandboxRecord {
  const { id: sandboxId, templateId, shape, lifecycle } = sandbox;
  const startedAtMs = clock.nowMs();
  return ledger.write(() => {
    const record = insertSandbox(ledger, {
      ...sandbox,
      startedAtMs,
      endAtMs: startedAtMs + lifecycle.timeoutMs,
      reservationId: reservationId ?? reserve(ledger, { kind: "active", shape, budgets, sandboxId }).id,
    });
    recordSpawn(ledger, templateId);
    return record;
  });
}
