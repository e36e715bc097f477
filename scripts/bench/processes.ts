/** Processes that are measured, as `/proc` shows them. */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

/** Resident (`VmRSS`) or private, anonymous (`RssAnon`) memory of a process, MiB. Readable for every user. */
export function memoryMiB(pid: number, what: "VmRSS" | "RssAnon"): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const kib = new RegExp(`^${what}:\\s+(\\d+) kB`, "m").exec(status)?.[1];
  if (kib === undefined) throw new Error(`/proc/${pid}/status has no ${what}`);
  return Number(kib) / 1024;
}

/** Runs `work` and returns the most resident memory that the process had meanwhile, MiB. */
export async function peakMemoryMiB(pid: number, work: () => Promise<void>): Promise<number> {
  const done = new AbortController();
  let peak = memoryMiB(pid, "VmRSS");
  const watch = async () => {
    while (!done.signal.aborted) {
      peak = Math.max(peak, memoryMiB(pid, "VmRSS"));
      await delay(20);
    }
  };
  const watching = watch();
  try {
    await work();
  } finally {
    done.abort();
    await watching;
  }
  return peak;
}

export interface NamedProcess {
  readonly pid: number;
  /** The program, argument 0. */
  readonly command: string;
}

/** The processes with `folder` in their command line. */
export function processesNaming(folder: string): NamedProcess[] {
  return readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name)) return [];
    try {
      const commandLine = readFileSync(`/proc/${name}/cmdline`, "utf8");
      const [command = ""] = commandLine.split("\0");
      return commandLine.includes(folder) ? [{ pid: Number(name), command }] : [];
    } catch {
      // The process has ended meanwhile.
      return [];
    }
  });
}
