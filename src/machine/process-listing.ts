/**
 * Lists processes with `ps`, for systems without `/proc` (macOS). BSD's and Linux's `ps` share the options used here.
 * Times are asked for in UTC, because the start of a process would be another one once the host's time zone changed.
 */
import { execFileSync } from "node:child_process";

export interface ListedProcess {
  /** One letter; `Z` is a process that has ended. */
  readonly state: string;
  /** Milliseconds since the epoch, to the second. */
  readonly startTime: string;
  /** On macOS the path of the executable, on Linux its name. */
  readonly command: string;
}

/** `S+   Mon Nov 23 20:47:01 2026 /path/of/program`, the time in UTC. */
export function parseListedProcess(line: string): ListedProcess | undefined {
  const match = /^\s*(\S)\S*\s+(\w{3} \w{3}\s+\d+ [\d:]{8} \d{4})\s+(.+?)\s*$/.exec(line);
  const [, state, started = "", command] = match ?? [];
  const startedMs = Date.parse(`${started} UTC`);
  if (!state || !command || Number.isNaN(startedMs)) return undefined;
  return { state, startTime: String(startedMs), command };
}

/** Undefined when there is no such process. */
export function listProcess(pid: number): ListedProcess | undefined {
  // Without -ww a long path is cut off at a width that depends on the terminal.
  return parseListedProcess(ps(["-ww", "-o", "stat=,lstart=,comm=", "-p", String(pid)]));
}

/** The command line, its arguments joined with blanks. */
export function listArguments(pid: number): string {
  return ps(["-ww", "-o", "args=", "-p", String(pid)]).trim();
}

export function listPids(): number[] {
  return ps(["-axo", "pid="])
    .split("\n")
    .map(Number)
    .filter((pid) => pid > 0);
}

/** `ps` exits 1 when it has nothing to list. */
function ps(args: readonly string[]): string {
  try {
    const env = { PATH: "/bin:/usr/bin", LC_ALL: "C", TZ: "UTC" };
    return execFileSync("ps", args, { encoding: "utf8", env, stdio: "pipe" });
  } catch (error) {
    if ((error as { status?: unknown }).status === 1) return "";
    throw error;
  }
}
