/** The Python SDK from the package index, in a virtual environment that later runs use again. */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { cacheDir } from "../daemon/real-daemon.ts";

const run = promisify(execFile);
const pipOptions = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"];
const week = Math.floor(Date.now() / (7 * 24 * 3_600_000));

/**
 * Installs an SDK if it is not there. Gives the python that has it, or why there is none.
 * @param version Default: this week's newest.
 */
export async function installPythonSdk(version?: string): Promise<{ python: string } | { missing: string }> {
  const name = version ?? `${week}`;
  const environment = join(cacheDir(), "test-python", `e2b-${name}`);
  const python = join(environment, "bin/python");
  const installed = join(environment, "installed");
  if (existsSync(installed)) return { python };
  await mkdir(dirname(environment), { recursive: true });
  // Those of other weeks are of no use any more.
  const isOld = (each: string) => each === basename(environment) || (version === undefined && /^e2b-\d+$/.test(each));
  for (const each of (await readdir(dirname(environment))).filter(isOld)) {
    await rm(join(dirname(environment), each), { recursive: true, force: true });
  }
  const attempt = async (what: string, command: string, args: string[]): Promise<string | undefined> => {
    try {
      await run(command, args, { timeout: 180_000 });
      return undefined;
    } catch (error) {
      const lines = String((error as { stderr?: string }).stderr ?? error).trim();
      return `${what}: ${lines.split("\n").at(-1)}`;
    }
  };
  const missing =
    (await attempt("python3 cannot make a venv", "python3", ["-m", "venv", environment])) ??
    (await attempt("no package index answers", python, [
      "-m",
      "pip",
      "install",
      ...pipOptions,
      version ? `e2b==${version}` : "e2b",
    ]));
  if (missing !== undefined) return { missing };
  await writeFile(installed, "");
  return { python };
}

/** As {@link installPythonSdk}, with the SDK of the code interpreter besides. */
export async function installCodeInterpreterSdk(): Promise<{ python: string } | { missing: string }> {
  const sdk = await installPythonSdk();
  if ("missing" in sdk) return sdk;
  const installed = join(dirname(sdk.python), "code-interpreter-installed");
  if (existsSync(installed)) return sdk;
  try {
    const args = ["-m", "pip", "install", ...pipOptions, "e2b-code-interpreter"];
    await run(sdk.python, args, { timeout: 180_000 });
  } catch (error) {
    return { missing: `no package index answers: ${String(error).trim().split("\n").at(-1)}` };
  }
  await writeFile(installed, "");
  return sdk;
}

/** Arguments with which an installed python runs a script that uses the SDK, and ends as soon as the script is done. */
export function scriptArguments(script: string, ...args: string[]): string[] {
  return [fileURLToPath(new URL("run_to_end.py", import.meta.url)), script, ...args];
}
