/** E2B's command line, `@e2b/cli`, as users have it: a process that knows the daemon by its environment variables. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { exportedVariables } from "./sdk.ts";

const program = fileURLToPath(new URL("../../../node_modules/.bin/e2b", import.meta.url));
/** A Python program that runs another in a terminal, and passes on what it is typed and what it shows. */
const inTerminal = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";

export interface CliResult {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Cli extends AsyncDisposable {
  /** Runs `e2b` with `input` piped in; default: nothing. */
  run(args: readonly string[], options?: { input?: string; env?: Record<string, string> }): Promise<CliResult>;
  /** Runs `e2b` in a terminal, and types `lines` as soon as it shows a prompt. */
  runInTerminal(args: readonly string[], lines: readonly string[]): Promise<CliResult>;
}

/** Opens a command line with a new and empty home folder. */
export async function openCli(): Promise<Cli> {
  const home = await mkdtemp(join(tmpdir(), "fk-cli-"));
  const environment = {
    PATH: process.env.PATH ?? "",
    HOME: home,
    NO_COLOR: "1",
    TERM: "dumb",
    ...exportedVariables(),
  };
  const start = (command: string, args: readonly string[], env = {}) => {
    const child = spawn(command, args, { env: { ...environment, ...env }, stdio: "pipe" });
    const output = { stdout: "", stderr: "" };
    child.stdout.on("data", (chunk: Buffer) => {
      output.stdout += chunk.toString();
    });
    child.stderr.on("data", (chunk: Buffer) => {
      output.stderr += chunk.toString();
    });
    // A program that ends before it has read its input is no failure.
    child.stdin.on("error", () => {});
    const result = once(child, "close").then(([exitCode]) => ({ exitCode: exitCode as number | null, ...output }));
    return { child, result };
  };
  return {
    run(args, { input = "", env } = {}) {
      const { child, result } = start(program, args, env);
      child.stdin.end(input);
      return result;
    },
    runInTerminal(args, lines) {
      const { child, result } = start("python3", ["-c", inTerminal, program, ...args]);
      let shown = "";
      child.stdout.on("data", (chunk: Buffer) => {
        const hadPrompt = hasPrompt(shown);
        shown += chunk.toString();
        if (!hadPrompt && hasPrompt(shown)) child.stdin.write(lines.map((line) => `${line}\r`).join(""));
      });
      return result;
    },
    [Symbol.asyncDispose]: () => rm(home, { recursive: true, force: true }),
  };
}

/** Whether the prompt of a shell that waits for a line was shown. */
function hasPrompt(shown: string): boolean {
  return /[$#] $/m.test(shown);
}
