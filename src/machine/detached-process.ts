/**
 * Detached processes outlive the daemon: each has a session of its own, writes to a log file, inherits its extra
 * descriptors, and holds nothing that breaks when the daemon goes.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { type FileHandle, open } from "node:fs/promises";
import type { Socket } from "node:net";
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
}

/** @throws DomainError `machine_failed` when the command cannot be started or ends at once; no process is left then */
export async function startDetached(command: DetachedCommand): Promise<DetachedProcess> {
  const log = await open(command.logPath, "a", 0o600);
  try {
    return await start(command, log);
  } finally {
    await log.close();
  }
}

async function start({ role, command, args, descriptors }: DetachedCommand, log: FileHandle): Promise<DetachedProcess> {
  const child = spawn(command, args, {
    detached: true,
    stdio: ["ignore", log.fd, log.fd, ...descriptors],
    env: { PATH: process.env.PATH ?? "/usr/bin:/bin", LANG: "C" },
    cwd: "/",
  });
  const exited = exitOf(child);
  const pipes = child.stdio.slice(3).filter((stream) => stream !== null) as unknown as Socket[];
  // The process that holds the other end notices a broken pair, so nothing has to be done here.
  for (const pipe of pipes) pipe.on("error", () => {});
  const identity = child.pid === undefined ? undefined : identifyProcess(role, child.pid);
  if (!identity) {
    for (const pipe of pipes) pipe.destroy();
    throw new DomainError("machine_failed", `${command} did not start: ${await exited}`);
  }
  child.unref();
  return { identity, exited, pipes };
}

function exitOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once("error", (error) => resolve(messageOf(error)));
    child.once("exit", (code, signal) => resolve(signal ? `ended by ${signal}` : `exit code ${code}`));
  });
}

/** The end of a log file for an error message: bounded, on one line, printable. Without a file it says so. */
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
