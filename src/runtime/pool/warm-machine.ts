/** One machine of the warm pool, made ahead of whoever will have it. */
import type { GuestAgent } from "../../guest/agent.ts";
import type { WarmEntry } from "../../ledger/warm-entries.ts";
import { newSessionId, type Vm } from "../../machine/driver.ts";
import { placeholderId } from "../../template/identity-files.ts";
import { runCommand } from "../../template/warm-up.ts";
import { giveIdentity } from "../machines/identity.ts";
import { type RestoreDependencies, restoreMachine } from "../machines/restore.ts";
import type { PoolTarget } from "./plan.ts";

/** A warm machine that somebody may have. */
export interface WarmMachine {
  readonly entry: WarmEntry;
  readonly vm: Vm;
  readonly agent: GuestAgent;
}

/** How long it may take until a machine is warm. */
export const warmingDeadlineMs = 60_000;

/** An emulator translates what differs from one time to the next: a few times show it all. */
const rehearsals = 3;

/**
 * Restores a machine, runs a command in it and rehearses how it is given another identity: both go faster the next time.
 * @param onLaunched as in `RestoreOptions`
 * @throws the signal's reason; what the restore throws
 */
export async function warmMachine(
  deps: RestoreDependencies,
  { key, snapshotFolder, mayBoot }: PoolTarget,
  signal: AbortSignal,
  onLaunched: (vm: Vm) => void,
): Promise<Omit<WarmMachine, "entry">> {
  const identity = {
    sandboxId: placeholderId,
    templateId: key.templateId,
    envs: {},
    defaults: { user: "", workdir: "" },
  };
  const order = { snapshotFolder, sessionId: newSessionId(), identity, internetAccess: true, mayBoot };
  const machine = await restoreMachine(deps, order, { sandboxId: null, scenario: "refill", onLaunched, signal });
  const { agent } = machine;
  const close = () => agent.close();
  signal.addEventListener("abort", close, { once: true });
  try {
    await runCommand(agent, "true");
    for (let times = 0; times < rehearsals; times++) {
      await giveIdentity(agent, identity, deps.clock, warmingDeadlineMs);
    }
    signal.throwIfAborted();
    return machine;
  } finally {
    signal.removeEventListener("abort", close);
  }
}
