/** A daemon's home: a state and a cache folder of a test's own, so that every process of its daemons can be found. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { cp, mkdir, mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { LifecycleStep } from "../../../src/lifecycle-steps.ts";
import { copyPreparedState } from "./base-template-state.ts";
import { cacheDir, type RealDaemon, startDaemon } from "./real-daemon.ts";

export interface Process {
  readonly pid: number;
  readonly command: string;
}

export interface DaemonHome extends AsyncDisposable {
  readonly stateDir: string;
  readonly machinesFolder: string;
  /** Starts a daemon in this home. The disposal of the daemon kills every sandbox and stops it. */
  start(args?: readonly string[]): Promise<RealDaemon>;
  /** The daemon that runs here, or the next one, sends itself this signal when it comes to this step. */
  orderFault(step: LifecycleStep, signal: "SIGKILL" | "SIGSTOP"): Promise<void>;
  /** Arguments of `firkin serve` for this home. */
  readonly args: readonly string[];
  /** Every process that names this home, runs a program in it, or writes to a file in it. */
  processes(): Process[];
  engines(): Process[];
}

/** @param options.firstStart Whether the first daemon of this home has to make the base template. */
export async function makeDaemonHome({ firstStart = false } = {}): Promise<DaemonHome> {
  // Short, because socket paths are limited.
  const root = await mkdtemp(join(tmpdir(), "fk-"));
  const [stateDir, cache] = [join(root, "state"), join(root, "cache")];
  await mkdir(cache);
  if (!firstStart) {
    await mkdir(stateDir, { mode: 0o700 });
    await copyPreparedState(stateDir);
  }
  await symlink(join(cacheDir(), "assets"), join(cache, "assets"));
  // The folder has what a daemon found out about this host and compiled for it. Logs of other daemons are left out.
  const isShared = (path: string) => !path.endsWith(".log");
  await cp(join(cacheDir(), "qemu"), join(cache, "qemu"), { recursive: true, filter: isShared }).catch(
    (error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error;
    },
  );
  const processes = () => processesOf(root);
  const order = join(root, "fault");
  return {
    stateDir,
    machinesFolder: join(stateDir, "machines"),
    args: ["--port", "0", "--state-dir", stateDir, "--cache-dir", cache],
    start: (args = []) =>
      startDaemon({ stateDir, args: ["--cache-dir", cache, ...args], env: { FIRKIN_FAULT_ORDER: order } }),
    async orderFault(step, signal) {
      await writeFile(`${order}.new`, `${step} ${signal}`);
      await rename(`${order}.new`, order);
    },
    processes,
    engines: () => processes().filter(({ command }) => /^\S*qemu-system-/.test(command)),
    async [Symbol.asyncDispose]() {
      // Only a failed test leaves processes, and each of them belongs to this home.
      for (const { pid } of processes()) process.kill(pid, "SIGKILL");
      await rm(root, { recursive: true, force: true, maxRetries: 5 });
    },
  };
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
