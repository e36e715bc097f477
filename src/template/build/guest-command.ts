/**
 * The commands of a build in its guest: run to their end, with their output in the log and E2B's words for a failure.
 */
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { AttachedProcess, GuestAgent } from "../../guest/agent.ts";
import type { ProcessEnd, ProcessSpec } from "../../types.ts";
import { type BuildLog, LineSplitter } from "./log.ts";

/** The environment, user and folder of a build's next command. ENV, WORKDIR and USER make a new context. */
export interface BuildContext {
  readonly envs: Readonly<Record<string, string>>;
  readonly user: string;
  /** Empty: the user's home. */
  readonly workdir: string;
}

export interface GuestBuild {
  readonly agent: GuestAgent;
  readonly log: BuildLog;
  /** Aborted when the daemon stops; the machine ends then, with everything that runs in it. */
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

/** Runs a command line of the client; its output goes to the log. @throws DomainError `failed_precondition` */
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
 * Runs one of our own shell scripts as root and gives its output. Arguments are `$1`…; no text of a client is in a
 * script.
 * @throws DomainError `failed_precondition` with the text on stderr
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
  const output = { stdout: "", stderr: "", terminal: "" };
  for await (const { channel, bytes } of process.output) {
    if (output[channel].length < maxOutputLength) output[channel] += Buffer.from(bytes).toString();
  }
  const end = await process.end;
  if (end.exitCode === 0) return output.stdout;
  throw new DomainError("failed_precondition", output.stderr.trim() || describeEnd(end));
}

const maxOutputLength = 64 * 1024;

/** Copies the output of a process into the log until it ends. @param label goes before each line */
export async function logOutput({ log }: GuestBuild, process: AttachedProcess, label?: string): Promise<ProcessEnd> {
  const stdout = new LineSplitter((line) => log.addOutput("stdout", line, label));
  const stderr = new LineSplitter((line) => log.addOutput("stderr", line, label));
  for await (const { channel, bytes } of process.output) (channel === "stderr" ? stderr : stdout).push(bytes);
  stdout.end();
  stderr.end();
  return process.end;
}

export function describeEnd({ exitCode, signal }: ProcessEnd): string {
  return signal === undefined ? `exit status ${exitCode}` : `killed by signal ${signal}`;
}

/** `failed to run command 'x': …`, with E2B's words for an unknown user. */
export function commandFailure(command: string, error: unknown, user: string): DomainError {
  const isUnknownUser = isDomainError(error) && error.details.status === "unauthenticated";
  const why = isUnknownUser ? `command failed: unauthenticated: invalid username: '${user}'` : messageOf(error);
  const shown = command.length > 500 ? `${command.slice(0, 500)}…` : command;
  return new DomainError("failed_precondition", `failed to run command '${shown}': ${why}`, {}, { cause: error });
}
