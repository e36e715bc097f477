/**
 * The last part of a build: the start command is started and left running, and the ready command is tried until it
 * succeeds. The snapshot is taken then, so that sandboxes come up with that process running.
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
import { askReady, parseReadyHelper } from "./ready-helpers.ts";

const retryMs = 2_000;
const readyDeadlineMs = 10 * 60_000;
/** E2B's default when a client names no ready command: time for the start command to come up. */
const defaultReadyCommand = "sleep 20";

interface StartCommands {
  readonly startCommand: string | undefined;
  readonly readyCommand: string | undefined;
}

/**
 * Starts the start command and waits until the template is ready.
 * @throws DomainError `failed_precondition` when the start command fails or the ready command never succeeds
 */
export async function startAndWait(
  build: GuestBuild,
  { startCommand, readyCommand }: StartCommands,
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

interface StartProcess {
  readonly command: string;
  readonly process: AttachedProcess;
  /** Set when the process ended by itself before the template was ready. */
  end: ProcessEnd | undefined;
}

async function start(build: GuestBuild, command: string, context: BuildContext): Promise<StartProcess> {
  build.log.add("info", `Running start command: ${command}`);
  try {
    const process = await build.agent.exec(loginShell(command, context), build.signal);
    const started: StartProcess = { command, process, end: undefined };
    // Rejects when the process is detached, or when the machine ends.
    logOutput(build, process, "[start]").then(
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
  started: StartProcess | undefined,
): Promise<void> {
  build.log.add("info", `Waiting for template to be ready: ${command}`);
  const deadlineMs = clock.monotonicMs() + readyDeadlineMs;
  for (;;) {
    const end = await tryReady(build, command, context, clock, deadlineMs);
    // A start command may set something up and end with success.
    if (started?.end && started.end.exitCode !== 0) {
      throw commandFailure(started.command, new Error(describeEnd(started.end)), context.user);
    }
    if (end?.exitCode === 0) {
      build.log.add("info", "Template is ready");
      return;
    }
    build.log.add("debug", `Template is not ready: ${end ? describeEnd(end) : "the ready command takes too long"}`);
    if (clock.monotonicMs() + retryMs > deadlineMs) {
      throw commandFailure(command, new Error("not ready after 10 minutes"), context.user);
    }
    await clock.sleep(retryMs, build.signal);
  }
}

/** Tries the ready command once. Undefined when the try took longer than the time that is left. */
async function tryReady(
  build: GuestBuild,
  command: string,
  context: BuildContext,
  clock: Clock,
  deadlineMs: number,
): Promise<ProcessEnd | undefined> {
  const helper = parseReadyHelper(command);
  if (helper) return { exited: true, exitCode: (await askReady(build.agent, helper, build.signal)) ? 0 : 1 };
  const over = new AbortController();
  try {
    const process = await build.agent.exec(loginShell(command, context), build.signal);
    const overdue = clock.sleep(Math.max(0, deadlineMs - clock.monotonicMs()), over.signal).then(
      () => process.detach(),
      () => {},
    );
    const end = await logOutput(build, process, "[ready]");
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
