/** How a sandbox comes to be in the ledger, whatever it is made from. */
import type { Clock } from "../../clock.ts";
import { type CapacityBudgets, reserve } from "../../ledger/capacity.ts";
import type { Ledger } from "../../ledger/open.ts";
import { insertSandbox, type NewSandbox } from "../../ledger/sandboxes.ts";
import { recordSpawn } from "../../ledger/templates.ts";
import type { SandboxRecord } from "../../types.ts";
import type { WarmMachine } from "../pool/warm-machine.ts";

interface AdmissionDependencies {
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly budgets: CapacityBudgets;
}

/**
 * Gives a sandbox its share of the host, writes it down as `creating` from now on, and counts it for its template: all
 * of that or nothing.
 * @param warm the machine that is the sandbox's already, and its share with it
 * @throws capacity_exhausted; failed_precondition when its snapshot cannot be restored any more
 */
export function admitSandbox(
  { ledger, clock, budgets }: AdmissionDependencies,
  sandbox: Omit<NewSandbox, "startedAtMs" | "endAtMs" | "reservationId">,
  warm?: WarmMachine,
): SandboxRecord {
  const { id: sandboxId, templateId, shape, lifecycle } = sandbox;
  const startedAtMs = clock.nowMs();
  return ledger.write(() => {
    const reservationId =
      warm?.entry.reservationId ?? reserve(ledger, { kind: "active", shape, budgets, sandboxId }).id;
    const endAtMs = startedAtMs + lifecycle.timeoutMs;
    const record = insertSandbox(ledger, { ...sandbox, startedAtMs, endAtMs, reservationId }, warm?.vm.record);
    recordSpawn(ledger, templateId);
    return record;
  });
}
