/** `--keep-awake`: an idle Mac stays awake while the daemon runs, by means of the system's own `caffeinate`. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { DomainError, messageOf } from "../../errors.ts";

/**
 * Keeps the Mac from sleeping when nobody uses it. The lid and the menu still put it to sleep. It ends with this process.
 * @returns the end of it
 * @throws DomainError `failed_precondition` when the program does not start
 */
export async function keepAwake(command = "caffeinate"): Promise<() => void> {
  const child = spawn(command, ["-i", "-w", String(process.pid)], { stdio: "ignore" });
  try {
    await once(child, "spawn");
  } catch (error) {
    const problem = `--keep-awake needs macOS's caffeinate: ${messageOf(error)}`;
    throw new DomainError("failed_precondition", problem, {}, { cause: error });
  }
  child.unref();
  return () => void child.kill();
}
