/** The enrolment of a new sandbox: its reservation, its row and its access token in the ledger, whatever it is made from. */
import { insertAccessToken } from "../../ledger/access-tokens.ts";
import { reserve } from "../../ledger/capacity.ts";
import { insertSandbox, type NewSandbox } from "../../ledger/sandboxes.ts";
import { recordSpawn } from "../../ledger/templates.ts";
import type { SandboxRecord } from "../../types.ts";
import type { RuntimeDependencies } from "../dependencies.ts";
import type { WarmMachine } from "../pool/warm-machine.ts";

type EnrolmentDependencies = Pick<RuntimeDependencies, "ledger" | "clock" | "budgets" | "newAccessToken">;

/**
 * Reserves capacity for a sandbox, writes the sandbox down as `creating` from now on, gives it an access token, and counts it for its template:
 * all of that or nothing.
 * @param warm the machine that the sandbox checks out, and its reservation with it
 * @throws DomainError `capacity_exhausted`; `failed_precondition` when the snapshot cannot be restored any more
 */
export function enrollSandbox(
  { ledger, clock, budgets, newAccessToken }: EnrolmentDependencies,
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
    insertAccessToken(ledger, sandboxId, newAccessToken());
    recordSpawn(ledger, templateId);
    return record;
  });
}
