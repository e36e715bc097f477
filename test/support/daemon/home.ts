/** A daemon's home: a state and a cache folder of a test's own, so that every process of its daemons can be found. */
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { cp, mkdir, mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { LifecycleStep, MadeTemplateStep } from "../../../src/lifecycle-steps.ts";
import { copyPreparedState } from "./base-template-state.ts";
import { isMachineOf, type TestedEngine, testedEngine } from "./engine-processes.ts";
import { runsc } from "./gvisor.ts";
import { cacheDir, type RealDaemon, startDaemon } from "./real-daemon.ts";

export interface Process {
  readonly pid: number;
  readonly command: string;
}

export interface DaemonHome extends AsyncDisposable {
  readonly engine: TestedEngine;
  readonly stateDir: string;
  readonly machinesFolder: string;
  /** Starts a daemon in this home. The disposal of the daemon kills every sandbox and stops it. */
  start(args?: readonly string[]): Promise<RealDaemon>;
  /** The daemon that runs here, or the next one, sends itself this signal when it comes to this step. */
  orderFault(step: LifecycleStep | MadeTemplateStep, signal: "SIGKILL" | "SIGSTOP"): Promise<void>;
  /** Arguments of `firkin serve` for this home. */
  readonly args: readonly string[];
  /** The variables without which a daemon of this home takes no order of a fault. */
  readonly env: Readonly<Record<string, string>>;
  /** Every process that names this home, runs a program in it, or writes to a file in it. */
  processes(): Process[];
  engines(): Process[];
}

/**
 * @param options.firstStart Whether the first daemon of this home has to make the base template.
 * @param options.engine Default: that of the tests with real machines.
 */
export async function makeDaemonHome({ firstStart = false, engine = testedEngine } = {}): Promise<DaemonHome> {
  // Short, because socket paths are limited.
  const root = await mkdtemp(join(tmpdir(), "fk-"));
  const [stateDir, cache] = [join(root, "state"), join(root, "cache")];
  await mkdir(cache);
  if (!firstStart) {
    await mkdir(stateDir, { mode: 0o700 });
    await copyPreparedState(stateDir, engine);
  }
  await symlink(join(cacheDir(), "assets"), join(cache, "assets"));
  await copyFindings(engine, cache);
  const processes = () => processesOf(root);
  const order = join(root, "fault");
  const env = { FIRKIN_FAULT_ORDER: order };
  const chosen = ["--engine", engine, ...(engine === "gvisor" ? ["--runsc", runsc] : [])];
  return {
    engine,
    stateDir,
    machinesFolder: join(stateDir, "machines"),
    args: ["--port", "0", "--state-dir", stateDir, "--cache-dir", cache, ...chosen],
    env,
    start: (args = []) => startDaemon({ stateDir, args: ["--cache-dir", cache, ...chosen, ...args], env }),
    async orderFault(step, signal) {
      await writeFile(`${order}.new`, `${step} ${signal}`);
      await rename(`${order}.new`, order);
    },
    processes,
    engines: () => processes().filter(({ command }) => isMachineOf(engine, command)),
    async [Symbol.asyncDispose]() {
      // Only a failed test leaves processes, and each of them belongs to this home. Some end with others of them.
      for (const { pid } of processes()) if (existsSync(`/proc/${pid}`)) process.kill(pid, "SIGKILL");
      await rm(root, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/** What a daemon found out about this host and compiled for it; not the logs of other daemons, nor images of disks. */
async function copyFindings(engine: TestedEngine, cache: string): Promise<void> {
  const shared = join(cacheDir(), engine);
  const filter = (path: string) => !/\.(log|ext4)$/.test(path);
  await cp(shared, join(cache, engine), { recursive: true, filter }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
  });
}

function processesOf(folder: string): Process[] {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name) && name !== String(process.pid));
  return pids.flatMap((pid) => {
    const facts = [orEmpty(() => readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " "))];
    for (const link of ["exe", "fd/1", "fd/2"]) facts.push(orEmpty(() => readlinkSync(`/proc/${pid}/${link}`)));
    return facts.some((fact) => fact.includes(`${folder}/`)) ? [{ pid: Number(pid), command: facts[0] ?? "" }] : [];
  });
}

/** Reads a fact of a process, empty if the process has ended meanwhile. */
function orEmpty(read: () => string): string {
  try {
    return read();
  } catch {
    return "";
  }
}
