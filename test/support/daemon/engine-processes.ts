/** The engine processes of a state folder that run on this host, no matter which daemon started them. */
import { readdirSync, readFileSync } from "node:fs";

export type TestedEngine = "qemu" | "gvisor";

/** The variable that tells the processes of the tests which engine the shared daemon has chosen. */
const chosenVariable = "FIRKIN_TEST_CHOSEN_ENGINE";

/** Lets tests whose engine neither the caller nor their project names run on this one. Call it before they start. */
export function chooseEngine(engine: TestedEngine): void {
  process.env[chosenVariable] = engine;
}

/** The engine that a test's machines run on: as the caller, the project or the shared daemon says. */
export const testedEngine: TestedEngine =
  (process.env.FIRKIN_TEST_ENGINE ?? process.env[chosenVariable]) === "gvisor" ? "gvisor" : "qemu";

const programs = { qemu: "qemu-system-x86_64", gvisor: "firkin-gvisor" } as const;

/** Whether a command line is that of a process which stands for a machine. */
export function isMachineOf(engine: TestedEngine, command: string): boolean {
  return command.split(" ")[0]?.endsWith(programs[engine]) ?? false;
}

/** Pids of the processes of that program that name a file of a machine of this state folder. */
export function runningEngines(
  stateDir: string,
  program: "qemu-system-x86_64" | "firkin-gvisor" | "firkin-vz" = programs[testedEngine],
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
