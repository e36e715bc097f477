/** The code interpreter service as a process of this host, with the packages of its template. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { cp, mkdir, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Sandbox } from "@e2b/code-interpreter";
import { afterAll, beforeAll, describe } from "vitest";
import { currentWheels } from "../../../scripts/setup/code-interpreter.mjs";
import { storageRoots } from "../../../scripts/setup/roots.mjs";
import { newShortFolder } from "../short-folder.ts";
import { titleOf } from "../skipped-title.ts";

const program = fileURLToPath(new URL("../../../src/code-interpreter/service.py", import.meta.url));

/** Why the service cannot run on this host, or undefined. */
function missingForService(): string | undefined {
  if (currentWheels(storageRoots(), "lean") === undefined) return "the packages are not set up";
  const { stdout } = spawnSync("python3", ["--version"], { encoding: "utf8" });
  return stdout?.startsWith("Python 3.11.") ? undefined : "the packages are for Python 3.11";
}

export interface LocalService extends AsyncDisposable {
  readonly url: string;
  /** The folder that contexts begin in. */
  readonly home: string;
  /** A folder that stands before the packages on Python's path. */
  readonly ownPackages: string;
  /** An SDK's sandbox whose service this is. */
  readonly sandbox: Sandbox;
  readonly front: ChildProcess;
  /** Gives the sandbox another environment, as the agent does. */
  readonly setEnvironment: (variables: Readonly<Record<string, string>>) => Promise<void>;
  /** The pid of the fork server. */
  readonly forkServer: () => number;
  /** Starts the front again, as the agent does when it has ended. */
  readonly startFront: () => Promise<void>;
  /** Sends a request as curl would. */
  readonly call: (path: string, init?: RequestInit) => Promise<Response>;
}

interface ServiceOptions {
  /** The sandbox's environment. */
  readonly variables?: Readonly<Record<string, string>>;
  /** Whether packages are loaded before kernels are forked, as in the template's snapshot. */
  readonly isLoadedAhead?: boolean;
  /** Why these tests cannot run, if the tests of the service could. */
  readonly lacking?: string | undefined;
}

/** Tests of one service, which is started before them and ended after them; skipped where it cannot run. */
export function describeService(name: string, options: ServiceOptions, tests: (service: LocalService) => void): void {
  const missing = missingForService() ?? options.lacking;
  describe.skipIf(missing)(titleOf(name, missing), () => {
    // Filled before the tests run, so that they are written as if it were there.
    const service: Partial<LocalService> = {};
    beforeAll(async () => {
      Object.defineProperties(service, Object.getOwnPropertyDescriptors(await startService(options)));
    });
    afterAll(() => service[Symbol.asyncDispose]?.());
    tests(service as LocalService);
  });
}

/** Starts a service and waits until it is ready. */
async function startService({ variables = {}, isLoadedAhead = false }: ServiceOptions): Promise<LocalService> {
  const folder = await newShortFolder();
  const home = join(folder, "home");
  const environmentFile = join(folder, "environment");
  const ownPackages = join(folder, "packages");
  await mkdir(home);
  await mkdir(join(ownPackages, "cycler"), { recursive: true });
  const cycler = join(currentWheels(storageRoots(), "lean")?.folder ?? "", "cycler");
  await cp(cycler, join(ownPackages, "cycler"), { recursive: true });
  const setEnvironment = (next: Readonly<Record<string, string>>) =>
    writeFile(
      environmentFile,
      Object.entries(next)
        .map(([name, value]) => `${name}=${value}\0`)
        .join(""),
    );
  await setEnvironment({ E2B_SANDBOX_ID: "first", ...variables });
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const runFolder = join(folder, "run");
  await mkdir(runFolder);
  if (isLoadedAhead) await writeFile(join(runFolder, "load-ahead"), "");
  const env = {
    PATH: process.env.PATH ?? "",
    HOME: home,
    LANG: "C.UTF-8",
    PYTHONPATH: `${ownPackages}:${currentWheels(storageRoots(), "lean")?.folder}`,
    PYTHONDONTWRITEBYTECODE: "1",
    FIRKIN_HOST: "127.0.0.1",
    FIRKIN_PORT: String(port),
    FIRKIN_RUN_FOLDER: runFolder,
    FIRKIN_HOME_FOLDER: home,
    FIRKIN_ENVIRONMENT_FILE: environmentFile,
  };
  const start = async () => {
    const child = spawn("python3", [program], { env, cwd: home, stdio: ["ignore", "ignore", "inherit"] });
    for (;;) {
      if (child.exitCode !== null) throw new Error(`the service ended with ${child.exitCode}`);
      const health = await fetch(`${url}/health`).catch(() => undefined);
      if (health?.ok) return child;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };
  const forkServer = () => {
    const { stdout } = spawnSync("pgrep", ["-f", `fork_server.py ${runFolder}`], { encoding: "utf8" });
    const pids = stdout.split("\n").filter((line) => line !== "");
    // Kernels have its command line, and it is their parent.
    return Number(pids.find((pid) => !pids.includes(parentOf(pid))) ?? 0);
  };
  const service = { front: await start() };
  const sandbox = await Sandbox.create({ debug: true, sandboxUrl: url });
  return {
    url,
    home,
    ownPackages,
    sandbox,
    get front() {
      return service.front;
    },
    setEnvironment,
    forkServer,
    startFront: async () => {
      service.front = await start();
    },
    call: (path, init) => fetch(`${url}${path}`, init),
    async [Symbol.asyncDispose]() {
      service.front.kill("SIGKILL");
      const pid = forkServer();
      if (pid > 0) process.kill(pid, "SIGKILL");
      await rm(folder, { recursive: true, force: true });
    },
  };
}

function parentOf(pid: string): string {
  return spawnSync("ps", ["-o", "ppid=", "-p", pid], { encoding: "utf8" }).stdout.trim();
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === "object" && address ? address.port : 0;
}

/** Runs a cell over plain HTTP and gives the lines of its stream. */
export async function linesOf(
  { call }: LocalService,
  body: object,
): Promise<{ readonly headers: Headers; readonly text: string; readonly lines: Record<string, unknown>[] }> {
  const answer = await call("/execute", { method: "POST", body: JSON.stringify(body) });
  const text = await answer.text();
  const lines = text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  return { headers: answer.headers, text, lines };
}
