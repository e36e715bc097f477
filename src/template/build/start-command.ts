/**
 * The last part of a build: the start command is started and left running, the ready command is tried until it says
 * that the template may be snapshotted. Sandboxes come up with that process running.
 */
import type { Clock } from "../../clock.ts";
import { DomainError } from "../../errors.ts";
import type { AttachedProcess } from "../../guest/agent.ts";
import type { ProcessEnd } from "../../types.ts";
import {
  type BuildContext,
  commandFailure,
  describeEnd,
  type GuestBuild,
  loginShell,
  logOutput,
} from "./guest-command.ts";

const retryMs = 2_000;
const readyDeadlineMs = 10 * 60_000;
/** What E2B waits for when a client says nothing: time for the start command to come up. */
const defaultReadyCommand = "sleep 20";

interface Commands {
  readonly startCommand: string | undefined;
  readonly readyCommand: string | undefined;
}

/** @throws DomainError `failed_precondition` when the start command fails or the ready command never succeeds */
export async function startAndWait(
  build: GuestBuild,
  { startCommand, readyCommand }: Commands,
  context: BuildContext,
  clock: Clock,
): Promise<void> {
  const started = startCommand ? await start(build, startCommand, context) : undefined;
  const ready = readyCommand || (started ? defaultReadyCommand : undefined);
  try {
    if (ready !== undefined) await waitUntilReady(build, ready, context, clock, started);
  } finally {
    started?.process.detach();
  }
}

interface Started {
  readonly command: string;
  readonly process: AttachedProcess;
  /** Set once it ended by itself, before the template was ready. */
  end: ProcessEnd | undefined;
}

async function start(build: GuestBuild, command: string, context: BuildContext): Promise<Started> {
  build.log.add("info", `start command: ${command}`);
  try {
    const process = await build.agent.exec(loginShell(command, context), build.signal);
    const started: Started = { command, process, end: undefined };
    // Rejects when it is let go, or with the machine.
    logOutput(build, process).then(
      (end) => {
        started.end = end;
      },
      () => {},
    );
    return started;
  } catch (error) {
    build.signal.throwIfAborted();
    throw commandFailure(command, error, context.user);
  }
}

async function waitUntilReady(
  build: GuestBuild,
  command: string,
  context: BuildContext,
  clock: Clock,
  started: Started | undefined,
): Promise<void> {
  build.log.add("info", `ready command: ${command}`);
  const deadlineMs = clock.monotonicMs() + readyDeadlineMs;
  for (;;) {
    const end = await tryReady(build, command, context, clock, deadlineMs);
    // A start command that sets something up and ends well has done what it is for.
    if (started?.end && started.end.exitCode !== 0) {
      throw commandFailure(started.command, new Error(describeEnd(started.end)), context.user);
    }
    if (end?.exitCode === 0) return;
    if (clock.monotonicMs() + retryMs > deadlineMs) {
      throw commandFailure(command, new Error("not ready after 10 minutes"), context.user);
    }
    await clock.sleep(retryMs, build.signal);
  }
}

/** One try. Undefined when it took longer than there is time. */
async function tryReady(
  build: GuestBuild,
  command: string,
  context: BuildContext,
  clock: Clock,
  deadlineMs: number,
): Promise<ProcessEnd | undefined> {
  const over = new AbortController();
  try {
    const process = await build.agent.exec(loginShell(command, context), build.signal);
    const overdue = clock.sleep(Math.max(0, deadlineMs - clock.monotonicMs()), over.signal).then(
      () => process.detach(),
      () => {},
    );
    const end = await logOutput(build, process);
    over.abort();
    await overdue;
    return end;
  } catch (error) {
    over.abort();
    build.signal.throwIfAborted();
    if (error instanceof DomainError && error.code === "cancelled") return undefined;
    throw commandFailure(command, error, context.user);
  }
}
