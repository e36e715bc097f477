/** A user's program: a process that knows a daemon, the shared one unless another is named, by the exported variables. */
import { execFile } from "node:child_process";
import { exportedVariables } from "./sdk.ts";

const defaultTimeoutMs = 150_000;
/** The test's own variables that are passed on. FIRKIN_CACHE_DIR leads to what is set up for the tests already. */
const passedOn = ["PATH", "HOME", "FIRKIN_CACHE_DIR"];

/**
 * Runs a program to its end and gives what it printed to its standard output.
 * @throws Error with all output when the exit code is not 0, or after the time-out.
 */
export function runUserProgram(
  command: string,
  args: readonly string[],
  variables: Readonly<Record<string, string>> = exportedVariables(),
  timeoutMs = defaultTimeoutMs,
): Promise<string> {
  const ownVariables = passedOn.map((name) => [name, process.env[name]]).filter(([, value]) => value !== undefined);
  const env = { ...Object.fromEntries(ownVariables), ...variables, PYTHONDONTWRITEBYTECODE: "1" };
  return new Promise((resolve, reject) => {
    execFile(command, args, { env, timeout: timeoutMs }, (error, stdout, stderr) => {
      if (!error) resolve(stdout);
      else reject(new Error(`the program ended with ${error.signal ?? error.code}\n${stdout}\n${stderr}`));
    });
  });
}
