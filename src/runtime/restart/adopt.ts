/**
 * The adoption of sandboxes that an earlier daemon started: their machines are taken over. A machine that lives and does
 * not answer, because its host or its engine stands still, is tried again until it answers or dies; its sandbox is shown
 * meanwhile, and requests for it are told to come back.
 */
import { messageOf } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { openGuestAgent } from "../../guest-machine/agent.ts";
import { moveSandbox } from "../../ledger/sandboxes.ts";
import type { Vm } from "../../machine/driver.ts";
import type { MachineRecord, SandboxRecord } from "../../types.ts";
import type { RuntimeDependencies } from "../dependencies.ts";
import { setGuestClock } from "../machines/identity.ts";
import type { Departures } from "../sandboxes/leave.ts";
import type { PausedInMemory } from "../sandboxes/paused-in-memory.ts";
import type { SandboxRegistry } from "../sandboxes/registry.ts";
import type { SavedPauses } from "../sandboxes/saved-pauses.ts";
import type { SerialQueue } from "../sandboxes/serial-queue.ts";
import type { Sessions } from "../sandboxes/sessions.ts";
import { describeReboot } from "../sessions/session-link.ts";

/** The parts of the runtime that take over sandboxes of an earlier daemon, or let them go. */
export interface TakeoverParts {
  readonly registry: SandboxRegistry;
  readonly queue: SerialQueue;
  readonly sessions: Sessions;
  readonly inMemory: PausedInMemory;
  readonly departures: Departures;
  readonly savedPauses: SavedPauses;
}

/** What became of a sandbox whose machine was to be taken over. */
export type Adoption = "adopted" | "paused" | "unanswering" | "lost";

/** Takes a machine over. @returns why its sandbox is lost, if it is @throws when the machine does not answer */
type Take = (vm: Vm) => Promise<string | undefined>;

/** Adopts a sandbox that runs, or that was being paused without a complete save and goes on. */
export async function adoptRunning(
  deps: RuntimeDependencies,
  parts: TakeoverParts,
  record: SandboxRecord,
  machine: MachineRecord,
): Promise<Adoption> {
  // A pause without a complete save is undone, whatever the machine does: the next daemon need not decide again.
  const undoPause = () =>
    record.state === "running" ? record : moveSandbox(deps.ledger, record.id, "pausing", "running");
  const take: Take = async (vm) => {
    const { clock } = deps;
    // The machine may have been stopped for a snapshot that was never completed. One that waits for room goes on later.
    const waits = vm.blockedBy !== undefined;
    if (!waits) await vm.resume();
    await restoreNetwork(deps, record, vm);
    const agent = waits ? undefined : await openAgentIfAnswered(deps, record, vm);
    const reboot = agent && describeReboot(machine.bootId, agent);
    if (reboot !== undefined) return reboot;
    // The host may have slept meanwhile.
    if (agent) await setGuestClock(agent, clock);
    const running = parts.registry.view(record.id)?.record ?? undoPause();
    const { bootId } = machine;
    parts.sessions.attach(running, {
      vm,
      agent,
      bootId,
      origin: "adopted",
      restoreStartedMs: undefined,
    });
    return undefined;
  };
  const found = await tryTake(deps, machine, take);
  if (found.at === "taken") return "adopted";
  if (found.at === "lost") return lose(deps, parts, record, found.reason);
  return keepTrying(deps, parts, { record: undoPause(), machine, take }, found.error);
}

/** Adopts a sandbox that is paused in memory. Its machine stands still, before and after. */
export async function adoptPausedInMemory(
  deps: RuntimeDependencies,
  parts: TakeoverParts,
  record: SandboxRecord,
  machine: MachineRecord,
): Promise<Adoption> {
  const take: Take = async (vm) => {
    await parts.inMemory.adopt(record, vm);
    return undefined;
  };
  const found = await tryTake(deps, machine, take);
  if (found.at === "taken") return "paused";
  if (found.at === "lost") return lose(deps, parts, record, "its machine is gone, and it was paused in memory only");
  return keepTrying(deps, parts, { record, machine, take }, found.error);
}

async function openAgentIfAnswered(
  { clock, log }: RuntimeDependencies,
  record: SandboxRecord,
  vm: Vm,
): Promise<GuestAgent | undefined> {
  try {
    return await openGuestAgent(vm, { clock, log });
  } catch (error) {
    log.warn({ err: error, sandboxID: record.id }, "the agent of an adopted machine does not answer; trying again");
    return undefined;
  }
}

/** The earlier daemon may have switched the network in the ledger alone. A network that is gone costs no sandbox. */
async function restoreNetwork({ driver, log }: RuntimeDependencies, record: SandboxRecord, vm: Vm): Promise<void> {
  if (!driver.info.abilities.network.supported) return;
  await vm
    .setInternetAccess(record.allowInternetAccess)
    .catch((error) => log.warn({ err: error, sandboxID: record.id }, "the network of an adopted machine is gone"));
}

type Found =
  | { readonly at: "taken" }
  | { readonly at: "lost"; readonly reason: string }
  | { readonly at: "unanswering"; readonly error: unknown };

async function tryTake({ driver }: RuntimeDependencies, machine: MachineRecord, take: Take): Promise<Found> {
  let vm: Vm | undefined;
  try {
    vm = await driver.adopt(machine);
    if (!vm) return { at: "lost", reason: "its machine is gone" };
    const reason = await take(vm);
    if (reason === undefined) return { at: "taken" };
    await vm.release();
    return { at: "lost", reason };
  } catch (error) {
    await vm?.release();
    return vm && !vm.isAlive ? { at: "lost", reason: messageOf(error) } : { at: "unanswering", error };
  }
}

interface LateAdoption {
  readonly record: SandboxRecord;
  readonly machine: MachineRecord;
  readonly take: Take;
}

/** Shows a sandbox whose machine does not answer, and tries to take the machine over in the background. */
function keepTrying(
  deps: RuntimeDependencies,
  parts: TakeoverParts,
  { record, machine, take }: LateAdoption,
  error: unknown,
): "unanswering" {
  const { log, logs, unfinishedWork } = deps;
  const { id } = record;
  log.error({ err: error, sandboxID: id }, "the machine of a sandbox lives and does not answer; trying again");
  logs.note(id, `The sandbox's machine does not answer yet: ${messageOf(error)}`, {
    level: "warn",
    event: "unanswering",
  });
  parts.sessions.showWithoutSession(record);
  const tryInQueue = async () => {
    const current = parts.registry.view(id)?.record;
    // A client has ended the sandbox meanwhile.
    if (!current) return;
    const found = await tryTake(deps, machine, take);
    if (found.at === "unanswering") throw found.error;
    if (found.at === "lost") lose(deps, parts, current, found.reason);
  };
  unfinishedWork.finish({ sandboxID: id }, () => parts.queue.runAlways(id, tryInQueue));
  return "unanswering";
}

/** Lets go of a sandbox whose machine is dead. */
function lose(
  { driver, log }: RuntimeDependencies,
  { departures }: TakeoverParts,
  record: SandboxRecord,
  reason: string,
): "lost" {
  const { id, machine } = record;
  log.warn({ sandboxID: id, reason }, "sandbox cannot be adopted");
  departures.leave({
    record,
    reason: "lost",
    loss: `The daemon could not take the sandbox up: ${reason}`,
    endMachine: async () => {
      if (machine) await driver.discard(machine);
    },
  });
  return "lost";
}
