/**
 * The agent of a running machine, opened over a fresh guest link. This room holds what templates and sandboxes both do
 * with a machine and its guest: open the agent, set the guest up, save the machine. It may call the driver contract,
 * snapshot files and the guest link, and knows neither templates nor sandboxes.
 */
import type { Clock } from "../clock.ts";
import type { GuestAgent } from "../guest/agent.ts";
import { connectGuestAgent } from "../guest/connect.ts";
import type { Logger } from "../log.ts";
import type { Vm } from "../machine/driver.ts";

const linkDeadlineMs = 15_000;
/** Under TCG the agent answers some ten seconds after the kernel's first line. */
const bootDeadlineMs = 120_000;

export interface OpenAgentOptions {
  readonly clock: Clock;
  readonly log: Logger;
  /** The guest was just booted, so its agent needs longer. Default false. */
  readonly booted?: boolean;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Opens the guest link of a running machine and waits until its agent answers.
 * @throws DomainError `machine_failed` when the link breaks, `deadline_exceeded` when the agent does not answer in
 *   time; the signal's reason
 */
export async function openGuestAgent(
  vm: Vm,
  { clock, log, booted = false, signal }: OpenAgentOptions,
): Promise<GuestAgent> {
  const deadlineMs = booted ? bootDeadlineMs : linkDeadlineMs;
  return connectGuestAgent(await vm.openGuestLink(signal), { deadlineMs, clock, log, ...(signal && { signal }) });
}
