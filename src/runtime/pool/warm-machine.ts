/** One machine of the warm pool: how it is restored and prepared ahead of the create that checks it out. */
import type { GuestAgent } from "../../guest/agent.ts";
import { placeholderId } from "../../guest-machine/setup.ts";
import type { WarmEntry } from "../../ledger/warm-entries.ts";
import { newSessionId, type Vm } from "../../machine/driver.ts";
import { runCommand } from "../../template/machine/warm-up.ts";
import { giveIdentity } from "../machines/identity.ts";
import {
  type HeldMachine,
  type RestoreDependencies,
  type RestoreOptions,
  restoreMachine,
} from "../machines/restore.ts";
import type { PoolTarget } from "./plan.ts";

/** A warm machine that a create may check out. */
export interface WarmMachine {
  readonly entry: WarmEntry;
  readonly vm: Vm;
  readonly agent: GuestAgent;
}

/** How long it may take until a machine is warm. */
export const warmingDeadlineMs = 60_000;

/** An emulator translates code when it first runs, and a few rehearsals run all of it. */
const rehearsals = 3;

/** Restores a machine of a template under the placeholder identity. @throws as `restoreMachine` */
export function restoreWarmMachine(
  deps: RestoreDependencies,
  { key, snapshotFolder, mayBoot }: PoolTarget,
  options: Pick<RestoreOptions, "writeDown" | "abandon" | "signal">,
): Promise<HeldMachine> {
  const identity = placeholderIdentity(key.templateId);
  const order = { snapshotFolder, sessionId: newSessionId(), identity, internetAccess: true, mayBoot };
  return restoreMachine(deps, order, { ...options, sandboxId: null, scenario: "refill" });
}

/**
 * Runs a command in a machine and rehearses how it is given another identity, because both go faster the next time.
 * @throws DomainError `machine_failed` when the link breaks; the signal's reason
 */
export async function rehearse(
  { clock }: Pick<RestoreDependencies, "clock">,
  agent: GuestAgent,
  templateId: string,
  signal: AbortSignal,
): Promise<void> {
  const close = () => agent.close();
  signal.addEventListener("abort", close, { once: true });
  try {
    await runCommand(agent, "true");
    for (let times = 0; times < rehearsals; times++) {
      await giveIdentity(agent, placeholderIdentity(templateId), clock, warmingDeadlineMs);
    }
    signal.throwIfAborted();
  } finally {
    signal.removeEventListener("abort", close);
  }
}

function placeholderIdentity(templateId: string) {
  return { sandboxId: placeholderId, templateId, envs: {}, defaults: { user: "", workdir: "" } };
}
