/** Which engine processes run on this host, whoever started them. */
import { readdirSync, readFileSync } from "node:fs";

/** Pids of the QEMU processes whose machines are in that state folder. */
export function runningEngines(stateDir: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      const [command = "", ...rest] = commandLine(pid);
      return command.endsWith("qemu-system-x86_64") && rest.some((it) => it.includes(`path=${stateDir}/machines/`));
    })
    .map(Number);
}

function commandLine(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch (error) {
    // It ended meanwhile.
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return [];
    throw error;
  }
}
