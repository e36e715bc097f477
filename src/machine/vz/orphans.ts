/**
 * Orphans are machines of Apple's framework that go on without their helper. The framework keeps every machine in a
 * process of its own, which usually ends with the helper and sometimes does not. An orphan is known by the files that it
 * holds: the disk of a machine in our folder, of which no helper runs any more.
 */
import { execFile } from "node:child_process";
import { setTimeout as delay } from "node:timers/promises";
import { DomainError } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import type { ProcessIdentity } from "../../types.ts";
import { endProcess, findProcessesIn, identifyProcess, nameIn } from "../processes.ts";
import { helperCommand } from "./helper-process.ts";

/** What the framework calls the process of a machine. */
const machineProgram = "com.apple.Virtualization.VirtualMachine";
/** How long the framework may take to end a machine by itself when its helper is gone. */
const graceMs = 3000;
const lookMs = 200;

/** Runs a program of the system to its end. It never rejects: a program that lists nothing has another exit code than 0. */
export type AskSystem = (command: string, args: readonly string[]) => Promise<string>;

const askSystem: AskSystem = (command, args) =>
  new Promise((resolve, reject) => {
    const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" };
    execFile(command, [...args], { env, maxBuffer: 16 << 20, timeout: 30_000 }, (error, stdout) => {
      // lsof ends with 1 when it could not look at one of the processes, or one has just ended.
      if (error && typeof error.code !== "number") {
        const problem = `${command} cannot be asked for machines without a helper: ${error.message}`;
        reject(new DomainError("machine_failed", problem, {}, { cause: error }));
      } else resolve(stdout);
    });
  });

/** A machine of the framework and the folder of ours in which its files are. */
export interface FrameworkMachine {
  readonly process: ProcessIdentity;
  /** The names of the machines whose files it holds, which are names of folders in the folder of machines. */
  readonly names: readonly string[];
}

/** The framework's machines that hold files below `folder`. */
export async function findMachines(folder: string, ask: AskSystem = askSystem): Promise<FrameworkMachine[]> {
  const listed = (await ask("ps", ["-axww", "-o", "pid=,comm="])).split("\n");
  const pids = listed.flatMap((line) => {
    const [, pid, command] = /^\s*(\d+)\s+(.+?)\s*$/.exec(line) ?? [];
    return pid && command?.endsWith(machineProgram) ? [Number(pid)] : [];
  });
  const found = await Promise.all(pids.map((pid) => machineOf(pid, folder, ask)));
  return found.filter((machine) => machine !== undefined);
}

async function machineOf(pid: number, folder: string, ask: AskSystem): Promise<FrameworkMachine | undefined> {
  // The identity comes first: a pid that is another process's when it is ended does not match it.
  const process = identifyProcess("vm", pid);
  const held = await ask("lsof", ["-a", "-p", String(pid), "-Fn"]);
  const names = held.split("\n").flatMap((line) => {
    // /tmp and /var are links to /private/tmp and /private/var.
    const path = line.startsWith("n") ? line.slice(1).replace(/^\/private(?=\/)/, "") : "";
    const base = folder.replace(/^\/private(?=\/)/, "");
    return path.startsWith(`${base}/`) ? [path.slice(base.length + 1).split("/")[0] ?? ""] : [];
  });
  return process && names.length > 0 ? { process, names: [...new Set(names)] } : undefined;
}

export interface OrphanOptions {
  readonly log: Logger;
  /** Only this machine's. */
  readonly name?: string;
  readonly ask?: AskSystem;
  /** Names of machines that a helper runs for. */
  readonly owned?: (folder: string) => ReadonlySet<string>;
}

/**
 * Ends the orphans of the machines in `folder`, after the framework had the time to end them itself. Machines with a
 * helper, and machines of other programs, are left alone.
 * @throws DomainError `machine_failed` when one survives
 */
export async function endOrphans(folder: string, options: OrphanOptions): Promise<void> {
  const { log, name, ask, owned = namesWithHelper } = options;
  const orphans = async () => {
    const machines = await findMachines(folder, ask);
    const withHelper = machines.length > 0 ? owned(folder) : new Set<string>();
    return machines.filter(({ names }) => names.every((each) => !withHelper.has(each) && (name ?? each) === each));
  };
  const end = performance.now() + graceMs;
  let left = await orphans();
  while (left.length > 0 && performance.now() < end) {
    await delay(lookMs);
    left = await orphans();
  }
  for (const { process, names } of left) {
    log.warn({ pid: process.pid, machines: names }, "a machine of the framework runs without its helper and is ended");
    await endProcess(process, 1000);
  }
}

function namesWithHelper(folder: string): ReadonlySet<string> {
  const helpers = findProcessesIn(folder, "vm", helperCommand);
  return new Set(helpers.flatMap(({ pid }) => nameIn(folder, pid) ?? []));
}
