/**
 * Processes that outlive the daemon are found again, and signalled, only when pid, start time and executable all match,
 * because pids are reused. They are read from Linux's `/proc`, or from `ps` where there is none.
 */
import { existsSync, readdirSync, readFileSync, readlinkSync, realpathSync } from "node:fs";
import { basename, isAbsolute } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { DomainError } from "../errors.ts";
import type { ProcessIdentity } from "../types.ts";
import { listArguments, listPids, listProcess } from "./process-listing.ts";

const hasProc = process.platform === "linux";

/** The used fields of `/proc/PID/stat`. */
export interface ProcessStat {
  readonly command: string;
  /** One letter; `Z` and `X` are threads that have ended. */
  readonly state: string;
  /** The threads of the process, the first one included, field 20. */
  readonly threads: number;
  /** Clock ticks since boot, field 22. */
  readonly startTime: string;
  /** Processor time that the process has used, milliseconds, fields 14 and 15; undefined where only `ps` tells. */
  readonly cpuTimeMs?: number;
}

/** What the kernel counts processor time in, for programs; it is the same on every Linux. */
const clockTicksPerSecond = 100;

/** Parses `/proc/PID/stat`. The command is in parentheses and may itself hold spaces and parentheses. */
export function parseProcessStat(text: string): ProcessStat | undefined {
  const opening = text.indexOf("(");
  const closing = text.lastIndexOf(")");
  if (opening < 0 || closing < opening) return undefined;
  const fields = text.slice(closing + 2).split(" ");
  const [state, threads, startTime] = [fields[0], Number(fields[17]), fields[19]];
  if (!state || !startTime || !/^\d+$/.test(startTime)) return undefined;
  const ticks = Number(fields[11]) + Number(fields[12]);
  const cpuTime = Number.isFinite(ticks) ? { cpuTimeMs: (ticks * 1000) / clockTicksPerSecond } : {};
  return { command: text.slice(opening + 1, closing), state, threads, startTime, ...cpuTime };
}

/**
 * The identity of a running process; undefined when none has the pid. A process that made itself undumpable (passt
 * does) hides its executable from everybody but root. Then the path it was started under stands for it, or
 * `command:NAME`.
 */
export function identifyProcess(role: ProcessIdentity["role"], pid: number): ProcessIdentity | undefined {
  const stat = readStat(pid);
  if (!stat || hasEnded(stat)) return undefined;
  const executable = readExecutable(pid) ?? pathStartedAs(pid) ?? `command:${stat.command}`;
  return { role, pid, startTime: stat.startTime, executable };
}

/**
 * True while the very process that was recorded runs; false once it ended, even if another process has its pid now. A
 * process that hides its executable counts as running, because it may be the recorded one; see {@link signalProcess}.
 */
export function isRunning(identity: ProcessIdentity): boolean {
  const stat = readStat(identity.pid);
  if (!stat || hasEnded(stat) || stat.startTime !== identity.startTime) return false;
  if (identity.executable.startsWith("command:")) return identity.executable === `command:${stat.command}`;
  return (readExecutable(identity.pid) ?? identity.executable) === identity.executable;
}

/** Processor time that a process has used, in milliseconds; undefined once it has ended, and where `/proc` is missing. */
export function cpuTimeOf(identity: ProcessIdentity): number | undefined {
  return isRunning(identity) ? readStat(identity.pid)?.cpuTimeMs : undefined;
}

/**
 * How long the threads of a process could work and had no processor, in milliseconds: those that live, together. 0 once
 * it has ended, and where the kernel does not tell.
 */
export function waitedForProcessorMs({ pid }: ProcessIdentity): number {
  try {
    const waitsNs = readdirSync(`/proc/${pid}/task`).map((thread) => {
      const [, waited] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8").split(" ");
      return Number(waited);
    });
    return waitsNs.reduce((sum, ns) => sum + ns, 0) / 1e6;
  } catch {
    return 0;
  }
}

/** The name that the process gives itself now, at most 15 characters. Undefined once it does not run any more. */
export function processName(identity: ProcessIdentity): string | undefined {
  return isRunning(identity) ? readStat(identity.pid)?.command : undefined;
}

/**
 * Every running process of the program `command` that has a path in `folder` among its arguments. So a daemon finds
 * processes that an earlier one started and died before it wrote them down.
 */
export function findProcessesIn(folder: string, role: ProcessIdentity["role"], command: string): ProcessIdentity[] {
  return allPids().flatMap((pid) => {
    if (nameIn(folder, pid) === undefined) return [];
    const identity = identifyProcess(role, pid);
    return identity && basename(identity.executable) === command ? [identity] : [];
  });
}

/** The first name in `folder`, of a file or of a folder there, that the arguments of a process hold. */
export function nameIn(folder: string, pid: number): string | undefined {
  for (const argument of readArguments(pid)) {
    // QEMU's option parser wants commas in values doubled.
    const [, rest] = argument.replaceAll(",,", ",").split(`${folder}/`, 2);
    if (rest !== undefined) return /^[^/,]*/.exec(rest)?.[0];
  }
  return undefined;
}

/**
 * Sends a signal if {@link isRunning}; true when it was sent. Check and signal happen in one turn of the event loop.
 * @throws DomainError `machine_failed` when the process hides its executable and calls itself something else
 */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): boolean {
  if (!isRunning(identity)) return false;
  const { pid, executable } = identity;
  if (!executable.startsWith("command:") && readExecutable(pid) === null && pathStartedAs(pid) !== executable) {
    const message = `process ${pid} gets no ${signal}: it hides its executable, which may not be ${executable}`;
    throw new DomainError("machine_failed", message, { pid });
  }
  try {
    return process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
    throw error;
  }
}

/**
 * Polls until the process is gone; false when it still runs after `deadlineMs`. It is seen late by an eighth of the
 * time that it took, because a client may wait for it.
 */
export async function waitUntilGone(identity: ProcessIdentity, deadlineMs: number): Promise<boolean> {
  const startedMs = performance.now();
  while (isRunning(identity)) {
    const elapsedMs = performance.now() - startedMs;
    if (elapsedMs >= deadlineMs) return false;
    await delay(Math.min(Math.max(1, elapsedMs / 8), 50));
  }
  return true;
}

/**
 * Ends a process: SIGTERM, and SIGKILL `graceMs` later (0: SIGKILL at once). Nothing happens if it is gone already.
 * @throws DomainError `machine_failed` when the process survives SIGKILL for 5 s, or hides its executable
 */
export async function endProcess(identity: ProcessIdentity, graceMs: number): Promise<void> {
  if (graceMs > 0 && signalProcess(identity, "SIGTERM") && (await waitUntilGone(identity, graceMs))) return;
  if (!signalProcess(identity, "SIGKILL")) return;
  if (await waitUntilGone(identity, 5000)) return;
  throw new DomainError("machine_failed", `process ${identity.pid} (${identity.executable}) survived SIGKILL`);
}

/** A process whose first thread has ended goes on as long as another one lives, and holds its memory and its files. */
const hasEnded = ({ state, threads }: ProcessStat) => state === "X" || (state === "Z" && threads <= 1);

function allPids(): number[] {
  if (!hasProc) return listPids();
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

function readStat(pid: number): ProcessStat | undefined {
  if (!hasProc) {
    const listed = listProcess(pid);
    return listed && { ...listed, threads: 1 };
  }
  try {
    return parseProcessStat(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

function readArguments(pid: number): string[] {
  if (!hasProc) return [listArguments(pid)];
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}

/**
 * The path that a process was started under, if its arguments begin with one. They can be read of a hidden process too.
 */
function pathStartedAs(pid: number): string | undefined {
  const [path = ""] = readArguments(pid);
  if (!isAbsolute(path)) return undefined;
  return existsSync(path) ? realpathSync(path) : path;
}

/**
 * Undefined once the process has begun to end. Null when it hides its executable from us, as the packet guard does,
 * which gives up root, from a root without CAP_SYS_PTRACE. A package upgrade under a running process adds " (deleted)"
 * to the link; it is the same process.
 */
function readExecutable(pid: number): string | null | undefined {
  if (!hasProc) return listProcess(pid)?.command;
  try {
    return readlinkSync(`/proc/${pid}/exe`).replace(/ \(deleted\)$/, "");
  } catch (error) {
    if (isGone(error)) return undefined;
    if ((error as NodeJS.ErrnoException).code === "EACCES") return null;
    throw error;
  }
}

const isGone = (error: unknown) => ["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "");
