/** HTTP load: the requests per second of a URL, and the bare handler that such a number is compared with. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const connections = 10;

/**
 * Measured from a process of its own, so that the work of this process does not count. @throws Error when an answer
 * is not 2xx.
 */
export async function requestsPerSecond(
  url: string,
  headers: Readonly<Record<string, string>>,
  seconds: number,
): Promise<number> {
  const autocannon = createRequire(import.meta.url).resolve("autocannon/autocannon.js");
  const options = ["--json", "--connections", String(connections), "--duration", String(seconds)];
  const headerOptions = Object.entries(headers).flatMap(([name, value]) => ["--headers", `${name}=${value}`]);
  const { stdout } = await run(process.execPath, [autocannon, ...options, ...headerOptions, url]);
  const result = JSON.parse(stdout) as { requests: { average: number }; non2xx: number; errors: number };
  if (result.non2xx + result.errors > 0) {
    throw new Error(`${url} answered ${result.non2xx} requests wrongly and ${result.errors} not at all`);
  }
  return result.requests.average;
}

/** The bare handler (`bare-handler.ts`), in a process of its own. */
export class BareHandler implements AsyncDisposable {
  readonly url: string;
  readonly #child: ChildProcess;

  private constructor(url: string, child: ChildProcess) {
    this.url = url;
    this.#child = child;
  }

  /** Starts a handler that answers every GET with `body`, as JSON. */
  static async start(body: string): Promise<BareHandler> {
    const program = fileURLToPath(new URL("./bare-handler.js", import.meta.url));
    // The handler ends with its standard input, so also when this process is killed.
    const child = spawn(process.execPath, [program], { stdio: ["pipe", "pipe", "inherit"] });
    child.stdin.write(`${JSON.stringify(body)}\n`);
    const ended = once(child, "exit").then(() => undefined);
    const line = await Promise.race([once(child.stdout, "data"), ended]);
    if (!line) throw new Error("the bare handler ended before it listened");
    return new BareHandler(String(line[0]).trim(), child);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, "exit");
    this.#child.kill();
    await ended;
  }
}
