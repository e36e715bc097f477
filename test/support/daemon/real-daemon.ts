/** A real daemon: the built program, started as users start it, with a state of its own and the shared cache. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { newShortFolder } from "../short-folder.ts";
import { copyPreparedState } from "./base-template-state.ts";
import { type TestedEngine, testedEngine } from "./engine-processes.ts";

const main = fileURLToPath(new URL("../../../dist/src/main.js", import.meta.url));
/** The first start boots, warms and snapshots the base template under TCG. */
const startDeadlineMs = 480_000;

/** Without a warm pool, because many tests count machines. Later flags win. */
const quiet = ["--warm-pool-max", "0"];

export interface RealDaemon extends AsyncDisposable {
  readonly url: string;
  readonly apiKey: string;
  readonly stateDir: string;
  readonly pid: number;
  /** The log so far. */
  readonly log: () => string;
  /** The exit code, when the daemon ends; null after a signal. */
  readonly exited: Promise<number | null>;
  /** Sends SIGTERM and waits for the end of the daemon. Machines go on. */
  readonly stop: () => Promise<number | null>;
  /** Sends SIGKILL and waits for the end of the daemon. Machines go on. */
  readonly kill: () => Promise<void>;
}

export interface RealDaemonOptions {
  /** Default: a new folder, removed on disposal. */
  readonly stateDir?: string;
  readonly args?: readonly string[];
  /** Put before the command: runs it elsewhere, such as in a network of its own. */
  readonly enter?: readonly string[];
  /** Beside the environment of the tests. */
  readonly env?: Readonly<Record<string, string>>;
}

export function cacheDir(): string {
  return process.env.FIRKIN_CACHE_DIR ?? join(homedir(), ".firkin", "cache");
}

/** Why no real machine can be started here, or undefined. */
export function missingForRealMachines(): string | undefined {
  if (!existsSync(main)) return "dist/ is not built";
  if (!existsSync(join(cacheDir(), "assets", "assets.json"))) return "there are no guest assets";
  return undefined;
}

/** A new state folder, with a base template; short, because socket paths are limited. */
export async function newStateDir(engine?: TestedEngine): Promise<string> {
  const stateDir = await newShortFolder();
  await copyPreparedState(stateDir, engine);
  return stateDir;
}

/** Starts a daemon on a free port and waits until it listens. Disposal kills every sandbox, then stops it. */
export async function startDaemon(options: RealDaemonOptions = {}): Promise<RealDaemon> {
  const { stateDir: given, args = [], enter = [], env } = options;
  const stateDir = given ?? (await newStateDir());
  const folders = ["--state-dir", stateDir, "--cache-dir", cacheDir()];
  const serve = [main, "serve", "--port", "0", ...folders, "--engine", testedEngine, ...quiet, ...args];
  const [command = "", ...rest] = [...enter, process.execPath, ...serve];
  const child = spawn(command, rest, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...env } });
  const exited = new Promise<number | null>((resolve) => child.once("exit", resolve));
  const log = collect(child);
  const url = await waitForUrl(child, log);
  const apiKey = (await readFile(join(stateDir, "api-key"), "utf8")).trim();
  const end = async (signal: NodeJS.Signals) => {
    if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
    child.kill(signal);
    await once(child, "exit");
    return child.exitCode;
  };
  return {
    url,
    apiKey,
    stateDir,
    pid: child.pid ?? 0,
    log,
    exited,
    stop: () => end("SIGTERM"),
    kill: async () => void (await end("SIGKILL")),
    async [Symbol.asyncDispose]() {
      if (child.exitCode === null && child.signalCode === null) await killAllSandboxes(url, apiKey, enter);
      await end("SIGTERM");
      if (!given) await rm(stateDir, { recursive: true, force: true });
    },
  };
}

export async function killAllSandboxes(url: string, apiKey: string, enter: readonly string[] = []): Promise<void> {
  if (enter.length > 0) return killAllFrom(enter, url, apiKey);
  const headers = { "x-api-key": apiKey };
  const sandboxes = (await (await fetch(`${url}/v2/sandboxes`, { headers })).json()) as { sandboxID: string }[];
  await Promise.all(
    sandboxes.map(({ sandboxID }) => fetch(`${url}/sandboxes/${sandboxID}`, { method: "DELETE", headers })),
  );
}

/** Kills all sandboxes from inside the network in which the daemon is reached. */
async function killAllFrom([command = "", ...rest]: readonly string[], url: string, apiKey: string): Promise<void> {
  const curl = `curl -sf -H 'x-api-key: ${apiKey}' ${url}`;
  const ids = `${curl}/v2/sandboxes | grep -o '"sandboxID":"[a-z0-9]*"' | cut -d'"' -f4`;
  const script = `${ids} | while read id; do ${curl}/sandboxes/$id -X DELETE; done`;
  await promisify(execFile)(command, [...rest, "sh", "-c", script]);
}

function collect(child: ChildProcess): () => string {
  const chunks: Buffer[] = [];
  child.stderr?.on("data", (chunk: Buffer) => chunks.push(chunk));
  return () => Buffer.concat(chunks).toString();
}

async function waitForUrl(child: ChildProcess, log: () => string): Promise<string> {
  let output = "";
  const listening = new Promise<string>((resolve) => {
    child.stdout?.on("data", (chunk: Buffer) => {
      output += chunk.toString();
      const url = /listens on (\S+)/.exec(output)?.[1];
      if (url) resolve(url);
    });
  });
  let timer: NodeJS.Timeout | undefined;
  const failed = new Promise<never>((_, reject) => {
    child.once("exit", (code) => reject(new Error(`the daemon ended with ${code} before it listened:\n${log()}`)));
    timer = setTimeout(() => reject(new Error(`the daemon does not listen:\n${log()}`)), startDeadlineMs);
  });
  try {
    return await Promise.race([listening, failed]);
  } catch (error) {
    child.kill("SIGKILL");
    throw error;
  } finally {
    clearTimeout(timer);
  }
}
