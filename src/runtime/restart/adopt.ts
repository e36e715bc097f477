/** The adoption of sandboxes that an earlier daemon started: their machines are taken over if they still answer. */
import { messageOf } from "../../errors.ts";
import { openGuestAgent } from "../../guest-machine/agent.ts";
import { moveSandbox } from "../../ledger/sandboxes.ts";
import type { Vm } from "../../machine/driver.ts";
import type { MachineRecord, SandboxRecord } from "../../types.ts";
import type { RuntimeDependencies } from "../dependencies.ts";
import { setGuestClock } from "../machines/identity.ts";
import type { Departures } from "../sandboxes/leave.ts";
import type { PausedInMemory } from "../sandboxes/paused-in-memory.ts";
import type { Sessions } from "../sandboxes/sessions.ts";

/** The parts of the runtime that take over what an earlier daemon left, or let it go. */
export interface TakeoverParts {
  readonly sessions: Sessions;
  readonly inMemory: PausedInMemory;
  readonly departures: Departures;
}

/** Shows a sandbox again, with its machine; undefined when that is gone or does not answer. */
export type TryAdopt = (
  deps: RuntimeDependencies,
  parts: TakeoverParts,
  record: SandboxRecord,
  machine: MachineRecord,
) => Promise<"adopted" | "paused" | undefined>;

/** Adopts a sandbox that runs, or that was being paused without a complete save and goes on. */
export const tryAdoptRunning: TryAdopt = (deps, parts, record, machine) =>
  tryTake(deps, record, machine, async (vm): Promise<"adopted"> => {
    const { driver, ledger, clock, log } = deps;
    // The earlier daemon may have written a change down without making it.
    if (driver.info.abilities.network.supported) await vm.setInternetAccess(record.allowInternetAccess);
    // The machine may have been stopped for a snapshot that was never completed.
    await vm.resume();
    const agent = await openGuestAgent(vm, { clock, log });
    // The host may have slept meanwhile.
    await setGuestClock(agent, clock);
    const running = record.state === "running" ? record : moveSandbox(ledger, record.id, "pausing", "running");
    parts.sessions.attach(running, { vm, agent, origin: "adopted", restoreStartedMs: undefined });
    return "adopted";
  });

/** Adopts a sandbox that is paused in memory. Its machine stands still, before and after. */
export const tryAdoptPausedInMemory: TryAdopt = (deps, parts, record, machine) =>
  tryTake(deps, record, machine, async (vm): Promise<"paused"> => {
    await parts.inMemory.adopt(record, vm);
    return "paused";
  });

async function tryTake<T>(
  { driver, log }: RuntimeDependencies,
  { id }: SandboxRecord,
  machine: MachineRecord,
  take: (vm: Vm) => Promise<T>,
): Promise<T | undefined> {
  try {
    const vm = await driver.adopt(machine);
    if (!vm) throw new Error("its machine is gone");
    try {
      return await take(vm);
    } catch (error) {
      await vm.release();
      throw error;
    }
  } catch (error) {
    log.warn({ sandboxID: id, reason: messageOf(error) }, "sandbox cannot be adopted");
    return undefined;
  }
}
