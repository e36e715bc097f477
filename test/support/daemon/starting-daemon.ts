/** A starting daemon: `firkin serve` as a process that a test watches, and may end before it listens. */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const main = fileURLToPath(new URL("../../../dist/src/main.js", import.meta.url));

export interface StartingDaemon {
  readonly output: () => string;
  readonly exited: Promise<number | null>;
  /** Waits until the daemon has printed `text`. @throws Error when the daemon ends before */
  says(text: string): Promise<void>;
  end(signal: NodeJS.Signals): Promise<number | null>;
}

export function spawnDaemon(args: readonly string[]): StartingDaemon {
  const child = spawn(process.execPath, [main, "serve", ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  let wake = () => {};
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      output += chunk.toString();
      wake();
    });
  }
  const exited = new Promise<number | null>((resolve) => child.once("exit", resolve));
  return {
    output: () => output,
    exited,
    async says(text) {
      let ended = false;
      void exited.then(() => {
        ended = true;
        wake();
      });
      while (!output.includes(text)) {
        if (ended) throw new Error(`the daemon ended before it printed "${text}":\n${output}`);
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
    end(signal) {
      child.kill(signal);
      return exited;
    },
  };
}
