/**
 * Detached processes outlive the daemon: each has a session of its own, writes to a log file, inherits its extra
 * descriptors, and holds nothing that breaks when the daemon goes.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { type FileHandle, open } from "node:fs/promises";
import type { Socket } from "node:net";
import { constants } from "node:os";
import { DomainError, messageOf } from "../errors.ts";
import type { ProcessIdentity } from "../types.ts";
import { identifyProcess } from "./processes.ts";

const logTailBytes = 2000;

export interface DetachedProcess {
  readonly identity: ProcessIdentity;
  /** Resolves with how the process ended, e.g. `exit code 1`. */
  readonly exited: Promise<string>;
  /** Our ends of the descriptors asked for as `"pipe"`, in their order. The caller destroys them. */
  readonly pipes: readonly Socket[];
}

export interface DetachedCommand {
  readonly role: ProcessIdentity["role"];
  readonly command: string;
  readonly args: readonly string[];
  /** Gets stdout and stderr, appended. */
  readonly logPath: string;
  /** Becomes descriptor 3, 4 … of the process. `"pipe"`: one end of a new socket pair. */
  readonly descriptors: readonly (number | Socket | "pipe")[];
  /**
   * `status`: the command is a launcher, which writes the pid of the process that matters to a descriptor after the others,
   * and closes it when that process runs.
   */
  readonly reportsOn?: "status";
  /** Variables of this process's environment that the process gets besides PATH and LANG. */
  readonly variables?: readonly string[];
}

/** A detached process of which nobody knows yet whether it runs. */
export interface SpawnedProcess extends Pick<DetachedProcess, "pipes"> {
  /** Rejects as {@link startDetached} does. */
  readonly started: Promise<DetachedProcess>;
}

/** @throws DomainError `machine_failed` when the command cannot be started or ends at once; no process is left then */
export async function startDetached(command: DetachedCommand): Promise<DetachedProcess> {
  return (await spawnDetached(command)).started;
}

/** Like {@link startDetached}, and does not wait for a launcher. @throws the error of a log that cannot be opened */
export async function spawnDetached(command: DetachedCommand): Promise<SpawnedProcess> {
  const log = await open(command.logPath, "a", 0o600);
  try {
    return spawnWith(command, log);
  } finally {
    await log.close();
  }
}

function spawnWith(order: DetachedCommand, log: FileHandle): SpawnedProcess {
  const { command, args, descriptors, reportsOn, variables = [] } = order;
  const child = spawn(command, args, {
    detached: true,
    stdio: ["ignore", log.fd, log.fd, ...descriptors, ...(reportsOn ? (["pipe"] as const) : [])],
    env: {
      ...Object.fromEntries(variables.map((name) => [name, process.env[name]])),
      PATH: process.env.PATH ?? "/usr/bin:/bin",
      LANG: "C",
    },
    cwd: "/",
  });
  const exited = exitOf(child, reportsOn !== undefined);
  const pipes = child.stdio.slice(3).filter((stream) => stream !== null) as unknown as Socket[];
  // The process that holds the other end notices a broken pair, so nothing has to be done here.
  for (const pipe of pipes) pipe.on("error", () => {});
  const report = reportsOn && child.pid !== undefined ? readReport(pipes.pop()) : undefined;
  const started = identify(order, child, { report, exited, pipes });
  // A launcher may fail before anybody waits for it, and a rejection without a listener ends the daemon.
  started.catch(() => {});
  return { pipes, started };
}

async function identify(
  { role, command, reportsOn }: DetachedCommand,
  child: ChildProcess,
  { report, exited, pipes }: Omit<DetachedProcess, "identity"> & { readonly report: Promise<Report> | undefined },
): Promise<DetachedProcess> {
  const reported = await report;
  const pid = reportsOn ? reported?.pid : child.pid;
  const identity = pid === undefined ? undefined : identifyProcess(role, pid);
  if (!identity) {
    for (const pipe of pipes) pipe.destroy();
    throw new DomainError("machine_failed", `${command} did not start: ${reported?.problem ?? (await exited)}`);
  }
  child.unref();
  return { identity, exited, pipes };
}

/** What a launcher says: the pid, or `error: …`. */
interface Report {
  readonly pid?: number;
  readonly problem?: string;
}

/** A report ends when the process runs, or when nothing does. */
async function readReport(pipe: Socket | undefined): Promise<Report> {
  if (!pipe) throw new DomainError("internal", "a launcher was started without a descriptor for its report");
  let text = "";
  for await (const piece of pipe.setEncoding("utf8")) text += piece;
  const problem = /^error: (.*)$/m.exec(text)?.[1];
  if (problem !== undefined) return { problem };
  const pid = Number(/^(\d+)$/m.exec(text)?.[1]);
  return pid > 0 ? { pid } : {};
}

/** @param isLauncher the child then ends with 128 + N for a process that signal N ended */
function exitOf(child: ChildProcess, isLauncher: boolean): Promise<string> {
  return new Promise((resolve) => {
    child.once("error", (error) => resolve(messageOf(error)));
    child.once("exit", (code, signal) => {
      const passedOn = isLauncher && code !== null && code > 128 ? signalName(code - 128) : undefined;
      const by = signal ?? passedOn;
      resolve(by ? `ended by ${by}` : `exit code ${code}`);
    });
  });
}

function signalName(number: number): string | undefined {
  return Object.entries(constants.signals).find(([, value]) => value === number)?.[0];
}

/** The end of a log file for an error message: bounded, one line, printable. Empty when there is none. */
export async function readLogTail(path: string): Promise<string> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, "r");
    const { size } = await handle.stat();
    const buffer = Buffer.alloc(Math.min(size, logTailBytes));
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, size - buffer.length);
    return printable(buffer.toString("utf8", 0, bytesRead));
  } catch (error) {
    return `(no log: ${messageOf(error)})`;
  } finally {
    await handle?.close();
  }
}

/** Text from an engine or a guest, made harmless for logs and error messages. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what must not get through
  return text.replace(/[\u0000-\u001f\u007f-\u009f]+/g, " ").trim();
}
