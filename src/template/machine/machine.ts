/**
 * The machine that a template is made in: it and its agent end with the scope of the work. This room has what every
 * making of a template does in its machine; it may call guest-machine, and no other room.
 */
import type { GuestAgent } from "../../guest/agent.ts";
import { type OpenAgentOptions, openGuestAgent } from "../../guest-machine/agent.ts";
import type { Vm } from "../../machine/driver.ts";
import { runEvery } from "../../run-every.ts";
import type { Scope } from "../../scope.ts";

/** How often the disk is tried again for a machine that stands still because of it. */
const blockedTickMs = 5_000;

/**
 * Launches a machine that ends with `scope`.
 * @param end called once when the scope closes, even if nothing was launched; `destroy` ends the machine if there is
 *   one
 * @throws what `launch` throws
 */
export async function launchIn(
  scope: Scope,
  launch: () => Promise<Vm>,
  end: (destroy: () => Promise<void>) => void | Promise<void>,
): Promise<Vm> {
  let launched: Vm | undefined;
  scope.defer(() => end(async () => launched?.terminate()));
  launched = await launch();
  return launched;
}

/**
 * Opens the agent of a machine. It is closed with `scope`, and when the signal aborts, which ends at once what is under
 * way over its link. A machine that finds no room on the host's disk meanwhile waits for it.
 * @throws DomainError as `openGuestAgent`
 */
export async function openAgentIn(
  scope: Scope,
  vm: Vm,
  options: OpenAgentOptions & { readonly signal: AbortSignal },
): Promise<GuestAgent> {
  const { clock, log } = options;
  const goOn = async () => {
    if (vm.blockedBy === undefined) return;
    log.warn({ cause: vm.blockedBy, sessionID: vm.record.sessionId }, "a template's machine waits for the host's disk");
    await vm.resume();
  };
  scope.use(
    runEvery(clock, blockedTickMs, goOn, (error) => log.warn({ err: error }, "a template's machine does not go on")),
  );
  const agent = await openGuestAgent(vm, options);
  scope.defer(() => agent.close());
  options.signal.addEventListener("abort", () => agent.close(), { once: true });
  return agent;
}
