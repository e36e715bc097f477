/** Commands of a build in its guest: run to their end, what they say in the log, their failure in E2B's words. */
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { AttachedProcess, GuestAgent } from "../../guest/agent.ts";
import type { ProcessEnd, ProcessSpec } from "../../types.ts";
import { type BuildLog, LineSplitter } from "./log.ts";

/** What the next command of a build gets. Replaced, never changed, by ENV, WORKDIR and USER. */
export interface BuildContext {
  readonly envs: Readonly<Record<string, string>>;
  readonly user: string;
  /** Empty: the user's home. */
  readonly workdir: string;
}

export interface GuestBuild {
  readonly agent: GuestAgent;
  readonly log: BuildLog;
  /** Aborted when the daemon stops; the machine ends then, and with it whatever runs. */
  readonly signal: AbortSignal;
}

/** A login shell, as the SDK's commands get one. */
export function loginShell(command: string, { envs, user, workdir }: BuildContext): ProcessSpec {
  return {
    command: "/bin/bash",
    args: ["-l", "-c", command],
    envs,
    user,
    ...(workdir !== "" && { cwd: workdir }),
    stdin: false,
  };
}

/** Runs a command line of the client; its output goes to the log. @throws DomainError `failed_precondition`, worded. */
export async function runClientCommand(build: GuestBuild, command: string, context: BuildContext): Promise<void> {
  try {
    const process = await build.agent.exec(loginShell(command, context), build.signal);
    const end = await logOutput(build, process);
    if (end.exitCode !== 0) throw new DomainError("failed_precondition", describeEnd(end));
  } catch (error) {
    build.signal.throwIfAborted();
    throw commandFailure(command, error, context.user);
  }
}

/**
 * Runs a shell script of ours as root and gives its output. Arguments are `$1`…; nothing of a client is in the script.
 * @throws DomainError `failed_precondition` with what it said on stderr
 */
export async function runScript(
  { agent, signal }: GuestBuild,
  script: string,
  args: readonly string[],
  context: Partial<BuildContext> = {},
): Promise<string> {
  const { envs = {}, user = "root", workdir = "/" } = context;
  const spec = { command: "/bin/bash", args: ["-c", script, "build", ...args], envs, user, stdin: false };
  const process = await agent.exec({ ...spec, ...(workdir !== "" && { cwd: workdir }) }, signal);
  const said = { stdout: "", stderr: "", terminal: "" };
  for await (const { channel, bytes } of process.output) {
    if (said[channel].length < maxSaidBytes) said[channel] += Buffer.from(bytes).toString();
  }
  const end = await process.end;
  if (end.exitCode === 0) return said.stdout;
  throw new DomainError("failed_precondition", said.stderr.trim() || describeEnd(end));
}

const maxSaidBytes = 64 * 1024;

/** Reads a process to its end into the log. */
export async function logOutput({ log }: GuestBuild, process: AttachedProcess): Promise<ProcessEnd> {
  const stdout = new LineSplitter((line) => log.add("info", line));
  const stderr = new LineSplitter((line) => log.add("warn", line));
  for await (const { channel, bytes } of process.output) (channel === "stderr" ? stderr : stdout).push(bytes);
  stdout.end();
  stderr.end();
  return process.end;
}

export function describeEnd({ exitCode, signal }: ProcessEnd): string {
  return signal === undefined ? `exit status ${exitCode}` : `killed by signal ${signal}`;
}

/** `failed to run command 'x': …`, with an unknown user in the words that clients know (reference 5). */
export function commandFailure(command: string, error: unknown, user: string): DomainError {
  const isUnknownUser = isDomainError(error) && error.details.status === "unauthenticated";
  const why = isUnknownUser ? `command failed: unauthenticated: invalid username: '${user}'` : messageOf(error);
  const shown = command.length > 500 ? `${command.slice(0, 500)}…` : command;
  return new DomainError("failed_precondition", `failed to run command '${shown}': ${why}`, {}, { cause: error });
}
