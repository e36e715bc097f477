/** The set-up as the daemon runs it: in a process of its own, for what a client asks for while the daemon serves. */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { DomainError } from "./errors.ts";

const keptLines = 8;

/**
 * Runs `firkin ARGUMENT…` of this very program.
 * @param onLine called with each line that it shows
 * @throws DomainError `machine_failed` with the end of what it showed; the signal's reason after it was ended
 */
export async function runSetup(
  args: readonly string[],
  cacheDir: string,
  onLine: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  const child = spawn(process.execPath, [commandPath(), ...args, "--cache-dir", cacheDir], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const end = () => child.kill("SIGTERM");
  signal.addEventListener("abort", end, { once: true });
  const tail: string[] = [];
  createInterface({ input: child.stderr }).on("line", (line) => {
    tail.push(line);
    if (tail.length > keptLines) tail.shift();
    onLine(line);
  });
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", resolve);
    });
    signal.throwIfAborted();
    if (code !== 0) throw new DomainError("machine_failed", `the set-up failed: ${tail.join(" ").trim()}`);
  } finally {
    signal.removeEventListener("abort", end);
  }
}

/** This file is in `src/` or in `dist/src/`. */
function commandPath(): string {
  const paths = ["../scripts/cli/firkin.mjs", "../../scripts/cli/firkin.mjs"].map((path) =>
    fileURLToPath(new URL(path, import.meta.url)),
  );
  const found = paths.find((path) => existsSync(path));
  if (found === undefined) throw new DomainError("internal", "the command firkin is missing beside the program");
  return found;
}
