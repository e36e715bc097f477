/**
 * The readiness probe and what else gives a machine its identity. A restored machine is shown to no client before its
 * agent answered over a fresh link and took its identity; from then on a command would start at once.
 */
import type { Clock } from "../../clock.ts";
import type { GuestAgent, GuestSetup } from "../../guest/agent.ts";
import { openGuestAgent } from "../../guest-machine/agent.ts";
import { sandboxEnvironment, sandboxFiles, setupOf, templateFiles, timeSetup } from "../../guest-machine/setup.ts";
import type { Logger } from "../../log.ts";
import type { Vm } from "../../machine/driver.ts";
import type { GuestDefaults } from "../../types.ts";

const setupDeadlineMs = 15_000;

/** What makes a restored machine one particular sandbox. */
export interface SandboxIdentity {
  readonly sandboxId: string;
  readonly templateId: string;
  readonly envs: Readonly<Record<string, string>>;
  /** Given to an agent that was booted. A restored agent has those of its template in its memory. */
  readonly defaults: GuestDefaults;
}

export interface ProbeOptions {
  readonly clock: Clock;
  readonly log: Logger;
  /** The guest was not restored but booted, so that it has nothing of its template in its memory. */
  readonly booted: boolean;
  readonly signal?: AbortSignal;
}

/**
 * Probes a restored machine and gives it its clock, entropy, host name, environment and marker files.
 * @throws DomainError `machine_failed`, `deadline_exceeded`; the signal's reason. The link is closed then.
 */
export async function probeReadiness(
  vm: Vm,
  identity: SandboxIdentity,
  { clock, log, booted, signal }: ProbeOptions,
): Promise<GuestAgent> {
  const agent = await openGuestAgent(vm, { clock, log, booted, signal });
  try {
    const { user, workdir } = identity.defaults;
    const forgotten = booted ? { defaultUser: user, defaultCwd: workdir } : {};
    const profile = sandboxProfile(identity);
    const files = [...profile.files, ...templateFiles(identity.templateId)];
    await setUp(agent, setupOf({ ...profile, ...forgotten, files }, clock), clock, setupDeadlineMs);
    return agent;
  } catch (error) {
    agent.close();
    throw error;
  }
}

/**
 * Gives a machine with another identity that of one sandbox: one round trip, with no more than what differs.
 * @throws DomainError `machine_failed` when the link breaks; the link is closed when the deadline passes
 */
export function giveIdentity(
  agent: GuestAgent,
  identity: SandboxIdentity,
  clock: Clock,
  deadlineMs: number,
): Promise<void> {
  return setUp(agent, setupOf(sandboxProfile(identity), clock), clock, deadlineMs);
}

/** Corrects the clock of a guest whose host's clock jumped. @throws DomainError as {@link giveIdentity} */
export function setGuestClock(agent: GuestAgent, clock: Clock): Promise<void> {
  return setUp(agent, timeSetup(clock), clock, setupDeadlineMs);
}

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

/** The part of SETUP that differs between two sandboxes of a template. */
function sandboxProfile(identity: SandboxIdentity) {
  return {
    hostname: identity.sandboxId,
    envs: sandboxEnvironment(identity),
    files: sandboxFiles(identity.sandboxId),
  };
}
