/** The engine processes of a state folder that run on this host, no matter which daemon started them. */
import { readdirSync, readFileSync } from "node:fs";
import { testedEngine } from "./tested-engine.ts";

/** The program of the engine that the shared daemon runs. */
const sharedProgram = testedEngine() === "gvisor" ? "firkin-gvisor" : "qemu-system-x86_64";

/** Pids of the processes of that program that name a file of a machine of this state folder. */
export function runningEngines(
  stateDir: string,
  program: "qemu-system-x86_64" | "firkin-gvisor" | "firkin-vz" = sharedProgram,
): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      const [command = "", ...rest] = commandLine(pid);
      return command.endsWith(program) && rest.some((argument) => argument.includes(`${stateDir}/machines/`));
    })
    .map(Number);
}

function commandLine(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch (error) {
    // The process has ended since the folder was read.
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return [];
    throw error;
  }
}
