/** Machines of sandboxes that an earlier daemon started: they are taken over if they still answer. */
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

/** It runs, or goes on: it was being paused, and nothing was saved. */
export const tryAdoptRunning: TryAdopt = (deps, parts, record, machine) =>
  tryTake(deps, record, machine, async (vm): Promise<"adopted"> => {
    const { driver, ledger, clock, log } = deps;
    // It may have been written down and not done.
    if (driver.info.abilities.network.supported) await vm.setInternetAccess(record.allowInternetAccess);
    // It may have been stopped for a snapshot that was never completed.
    await vm.resume();
    const agent = await openGuestAgent(vm, { clock, log });
    // The host may have slept meanwhile.
    await setGuestClock(agent, clock);
    const running = record.state === "running" ? record : moveSandbox(ledger, record.id, "pausing", "running");
    parts.sessions.attach(running, { vm, agent, origin: "adopted", restoreStartedMs: undefined });
    return "adopted";
  });

/** It stands still, and goes on standing still. */
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
