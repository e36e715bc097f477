/**
 * The seed's RuntimeReadinessProbe: a restored VM is shown to nobody before its agent answered over a fresh link and
 * took its identity. Ready means that a command would start now.
 */
import { randomBytes } from "node:crypto";
import type { Clock } from "../../clock.ts";
import type { GuestAgent, GuestSetup } from "../../guest/agent.ts";
import { connectGuestAgent } from "../../guest/link.ts";
import type { Logger } from "../../log.ts";
import type { Vm } from "../../machine/driver.ts";
import { sandboxFiles, templateFiles } from "../../template/identity-files.ts";
import type { GuestDefaults } from "../../types.ts";

const linkDeadlineMs = 15_000;
/** Under TCG the agent answers some ten seconds after the kernel's first line. */
const bootDeadlineMs = 120_000;
const setupDeadlineMs = 15_000;

/** What makes a restored VM one particular sandbox. */
export interface SandboxIdentity {
  readonly sandboxId: string;
  readonly templateId: string;
  readonly envs: Readonly<Record<string, string>>;
  /** Given to an agent that was booted; one that was restored has its template's in its memory. */
  readonly defaults: GuestDefaults;
}

/** Opens the guest link of a running VM. @throws DomainError `machine_failed` when the agent does not answer in time. */
export async function openGuestAgent(
  vm: Vm,
  clock: Clock,
  log: Logger,
  signal?: AbortSignal,
  deadlineMs: number = linkDeadlineMs,
): Promise<GuestAgent> {
  const stream = await vm.openGuestLink(signal);
  return connectGuestAgent(stream, { deadlineMs, clock, log, ...(signal && { signal }) });
}

/** The environment every process of a sandbox sees (reference 2.5), before its own `envs`. */
export function sandboxEnvironment(identity: Omit<SandboxIdentity, "defaults">): Record<string, string> {
  return {
    E2B_SANDBOX: "true",
    E2B_SANDBOX_ID: identity.sandboxId,
    E2B_TEMPLATE_ID: identity.templateId,
    ...identity.envs,
  };
}

export interface ProbeOptions {
  readonly clock: Clock;
  readonly log: Logger;
  /** The guest was not restored but booted, and remembers nothing. */
  readonly booted: boolean;
  readonly signal?: AbortSignal;
}

/** Probes a restored VM and gives it its clock, entropy, host name, environment and markers. */
export async function probeReadiness(
  vm: Vm,
  identity: SandboxIdentity,
  { clock, log, booted, signal }: ProbeOptions,
): Promise<GuestAgent> {
  const agent = await openGuestAgent(vm, clock, log, signal, booted ? bootDeadlineMs : linkDeadlineMs);
  try {
    const own = ownFacts(identity, clock);
    const { user, workdir } = identity.defaults;
    const forgotten = booted ? { defaultUser: user, defaultCwd: workdir } : {};
    const setup = { ...own, ...forgotten, files: [...own.files, ...templateFiles(identity.templateId)] };
    await setUp(agent, setup, clock, setupDeadlineMs);
    return agent;
  } catch (error) {
    agent.close();
    throw error;
  }
}

/**
 * Makes a machine that was somebody else before one particular sandbox: one round trip, with no more than differs.
 * @throws DomainError `machine_failed` when the link breaks; it is closed when the deadline passes
 */
export function giveIdentity(
  agent: GuestAgent,
  identity: SandboxIdentity,
  clock: Clock,
  deadlineMs: number,
): Promise<void> {
  return setUp(agent, ownFacts(identity, clock), clock, deadlineMs);
}

/** Corrects the clock of a guest that went on while its host's clock jumped. @throws as {@link giveIdentity} */
export function setGuestClock(agent: GuestAgent, clock: Clock): Promise<void> {
  return setUp(agent, { timeNs: timeOf(clock) }, clock, setupDeadlineMs);
}

const timeOf = (clock: Clock) => BigInt(clock.nowMs()) * 1_000_000n;

async function setUp(agent: GuestAgent, setup: GuestSetup, clock: Clock, deadlineMs: number): Promise<void> {
  const answered = new AbortController();
  clock.sleep(deadlineMs, answered.signal).then(
    () => agent.close(),
    () => {},
  );
  try {
    await agent.setup(setup);
  } finally {
    answered.abort();
  }
}

/** What no two sandboxes have in common. */
function ownFacts(identity: SandboxIdentity, clock: Clock): GuestSetup & Pick<Required<GuestSetup>, "files"> {
  return {
    timeNs: timeOf(clock),
    entropy: randomBytes(64),
    hostname: identity.sandboxId,
    envs: sandboxEnvironment(identity),
    files: sandboxFiles(identity.sandboxId),
  };
}
