/** A starting daemon: `firkin serve` as a process that a test watches, and may end before it listens. */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { killProcess } from "../kill-process.ts";

const main = fileURLToPath(new URL("../../../dist/src/main.js", import.meta.url));

export interface StartingDaemon {
  readonly pid: number;
  readonly output: () => string;
  readonly exited: Promise<number | null>;
  end(signal: NodeJS.Signals): Promise<number | null>;
}

export function spawnDaemon(args: readonly string[], env: Readonly<Record<string, string>> = {}): StartingDaemon {
  const child = spawn(process.execPath, [main, "serve", ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...env },
  });
  const { pid } = child;
  if (pid === undefined) throw new Error("the daemon could not be started");
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  const exited = new Promise<number | null>((resolve) => child.once("exit", resolve));
  return {
    pid,
    output: () => output,
    exited,
    end(signal) {
      killProcess(pid, signal);
      // A stopped process gets its signal when it goes on.
      killProcess(pid, "SIGCONT");
      return exited;
    },
  };
}
