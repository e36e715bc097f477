/**
 * The reconciliation of the warm pool with the warm machines of an earlier daemon. A clean stop leaves none. After a
 * crash the machines that answer are adopted; a machine that was being made or ended is ended before its capacity is
 * released.
 */
import { DomainError, messageOf } from "../../errors.ts";
import { openGuestAgent } from "../../guest-machine/agent.ts";
import { getReservation, release } from "../../ledger/capacity.ts";
import { discardWarmEntry, type WarmEntry } from "../../ledger/warm-entries.ts";
import type { MachineRecord } from "../../types.ts";
import type { RuntimeDependencies } from "../dependencies.ts";
import type { WarmMachine } from "../pool/warm-machine.ts";

export type WarmDecision =
  | { readonly action: "adopt"; readonly machine: MachineRecord }
  | { readonly action: "discard"; readonly machine: MachineRecord | null };

/** Decides about a warm entry: only a machine that waited in the pool is adopted, and only if there is a pool. Pure. */
function decideWarm({ state, machine }: WarmEntry, poolEnabled: boolean): WarmDecision {
  if (state === "ready" && machine && poolEnabled) return { action: "adopt", machine };
  return { action: "discard", machine };
}

/**
 * Adopts or ends each of `entries`. Call it after the machine folders without an owner are removed, because an entry
 * that has no machine yet may have left one.
 * @param entries oldest first, which is the order of the pool
 * @returns how many were adopted; the others end in the background
 */
export async function reconcileWarmPool(deps: RuntimeDependencies, entries: readonly WarmEntry[]): Promise<number> {
  const { warmPool, ledger, log } = deps;
  const decisions = entries.map((entry) => ({ entry, decision: decideWarm(entry, warmPool.enabled) }));
  const found = await Promise.all(
    decisions.map(async ({ entry, decision }) => {
      if (decision.action === "discard") return undefined;
      try {
        return await adopt(deps, entry, decision.machine);
      } catch (error) {
        log.warn({ warmEntryID: entry.id, reason: messageOf(error) }, "a warm machine cannot be adopted");
        return undefined;
      }
    }),
  );
  for (const [at, { entry }] of decisions.entries()) {
    const machine = found[at];
    const shape = getReservation(ledger, entry.reservationId)?.shape;
    if (machine && shape) warmPool.adopt(machine, shape);
    else end(deps, entry);
  }
  return found.filter((machine) => machine !== undefined).length;
}

async function adopt({ driver, clock, log }: RuntimeDependencies, entry: WarmEntry, record: MachineRecord) {
  const vm = await driver.adopt(record);
  if (!vm) throw new DomainError("machine_failed", "the machine is gone");
  try {
    return { entry, vm, agent: await openGuestAgent(vm, { clock, log }) } satisfies WarmMachine;
  } catch (error) {
    await vm.release();
    throw error;
  }
}

function end({ ledger, driver, unfinishedWork }: RuntimeDependencies, { id, machine, reservationId }: WarmEntry): void {
  discardWarmEntry(ledger, id);
  unfinishedWork.finish({ warmEntryID: id }, async () => {
    if (machine) await driver.discard(machine);
    release(ledger, reservationId);
  });
}
