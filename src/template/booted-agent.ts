/** The agent of a machine that was just booted for a template. */
import type { GuestAgent } from "../guest/agent.ts";
import { connectGuestAgent } from "../guest/link.ts";
import type { Logger } from "../log.ts";
import type { Vm } from "../machine/driver.ts";
import type { Scope } from "../scope.ts";

/** Under TCG the agent answers some ten seconds after the kernel's first line. */
export const bootDeadlineMs = 120_000;

/**
 * Waits until it answers. It is closed with `scope`, and when the signal aborts.
 * @throws DomainError `machine_failed` when it does not answer in time; the signal's reason
 */
export async function openBootedAgent(vm: Vm, scope: Scope, log: Logger, signal: AbortSignal): Promise<GuestAgent> {
  const agent = await connectGuestAgent(await vm.openGuestLink(signal), { deadlineMs: bootDeadlineMs, log, signal });
  scope.defer(() => agent.close());
  // What is under way over the link then fails at once.
  signal.addEventListener("abort", () => agent.close(), { once: true });
  return agent;
}
