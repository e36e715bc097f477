/**
 * The jail puts every process of an engine behind walls, such that an engine that its guest has taken over owns nothing but
 * its own machine. `jail.c` raises the walls; this file decides once which of them this host allows, and starts processes.
 * The room knows processes, users and files, and nothing of what an engine is.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { statSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { DomainError, messageOf } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import { buildTool } from "../build-tool.ts";
import { type DetachedCommand, type DetachedProcess, type SpawnedProcess, spawnDetached } from "../detached-process.ts";
import type { Wall } from "../driver.ts";
import { ControlGroups, type GroupLimits } from "./cgroups.ts";
import type { StoredEngine } from "./engine-store.ts";
import { MachineUsers } from "./machine-users.ts";
import { raiseNetworkRules } from "./network-rules.ts";

const run = promisify(execFile);

/** How much of the jail a host allows: all of it, what a user namespace can do, or only what needs no namespace. */
export type JailLevel = "full" | "user_namespace" | "plain";

/** Where a machine lives: whom its processes run as, and the groups that they join. */
export interface Cell {
  /** Undefined where all machines run as the daemon's own user. */
  readonly user: number | undefined;
  readonly groups: readonly string[];
}

/** What the walls around a process leave open. */
export interface JailedProcess {
  readonly engine: StoredEngine;
  readonly cell: Cell;
  /** Absolute paths of the host, which the process sees at the same place. */
  readonly writable: readonly string[];
  readonly readable: readonly string[];
  readonly devices: readonly string[];
  /** `none`: no interface at all. */
  readonly network: "none" | "host";
  readonly calls: "engine" | "network";
  readonly fileBytes: number;
  readonly environment: Readonly<Record<string, string>>;
  /** Size of the buffer of a socket pair that follows the descriptors. */
  readonly pairBytes?: number;
}

export type JailedCommand = JailedProcess & Omit<DetachedCommand, "reportsOn">;

/** A program of an engine that ends at once with 0. */
export interface Trial {
  readonly engine: StoredEngine;
  readonly command: string;
  readonly args: readonly string[];
}

const jailHeaders = ["call_filter.h", "jail_options.h", "jail_root.h", "launcher.h", "system_calls.h"];
const commonDevices = ["/dev/null", "/dev/urandom"];
const openFiles = 256;
const trialMs = 10_000;
/** Above the daemon's own, so that the kernel takes a machine first when memory runs out. */
const oomScore = 500;

export interface JailOptions {
  readonly cacheFolder: string;
  readonly machinesFolder: string;
  /** What in a machine's folder belongs to its user. */
  readonly ownedEntry: string;
  readonly log: Logger;
}

export class Jail {
  readonly level: JailLevel;
  readonly walls: readonly Wall[];
  readonly #launcher: string;
  readonly #mountPoint: string;
  readonly #users: MachineUsers | undefined;
  readonly #groups: ControlGroups;

  private constructor(
    level: JailLevel,
    walls: readonly Wall[],
    tools: { launcher: string; mountPoint: string; users: MachineUsers | undefined; groups: ControlGroups },
  ) {
    this.level = level;
    this.walls = walls;
    this.#launcher = tools.launcher;
    this.#mountPoint = tools.mountPoint;
    this.#users = tools.users;
    this.#groups = tools.groups;
  }

  /**
   * Finds out what this host allows, by trying it.
   * @param trial what is started for that
   * @throws DomainError `failed_precondition` when the launcher does not compile or nothing can be started with it
   */
  static async open({ cacheFolder, machinesFolder, ownedEntry, log }: JailOptions, trial: Trial): Promise<Jail> {
    const launcher = await buildTool({ beside: import.meta.url, source: "jail.c", headers: jailHeaders }, cacheFolder);
    const mountPoint = join(cacheFolder, "jail-root");
    await mkdir(mountPoint, { recursive: true, mode: 0o755 });
    const isRoot = process.getuid?.() === 0;
    const machines = new Set(await readdir(machinesFolder));
    const owner = createHash("sha256").update(machinesFolder).digest("hex").slice(0, 8);
    const groups = await ControlGroups.open(owner);
    await groups.removeUnused(machines);
    const problems: string[] = [];
    for (const level of isRoot ? (["full", "plain"] as const) : (["user_namespace", "plain"] as const)) {
      // Another user than the daemon's reaches the files of a machine only where the jail shows them to it.
      const users = level === "full" ? await MachineUsers.open(machinesFolder, ownedEntry) : undefined;
      const tools = { launcher, mountPoint, users, groups };
      const jail = new Jail(level, [], tools);
      const problem = await jail.#tryOut(trial);
      if (problem !== undefined) {
        problems.push(problem);
        log.warn({ level, reason: problem }, "this host does not allow this much of the jail");
        continue;
      }
      const addresses = isRoot ? await raiseNetworkRules() : "only root can set rules for packets";
      return new Jail(level, describeWalls(level, { isRoot, problems, groups, addresses }), tools);
    }
    throw new DomainError("failed_precondition", `no process can be started in a jail: ${problems.join("; ")}`);
  }

  /** Makes room for a machine: a user and groups of its own. {@link close} gives them back. */
  async openCell(
    machine: string,
    limits: Omit<GroupLimits, "processes"> & Partial<Pick<GroupLimits, "processes">>,
  ): Promise<Cell> {
    const groups = await this.#groups.make(machine, { processes: 256, ...limits });
    return { user: this.#users?.take(machine), groups };
  }

  /** Gives back what a machine had whose processes have ended. Idempotent. */
  async closeCell(machine: string): Promise<void> {
    await this.#groups.remove(machine);
    this.#users?.giveBack(machine);
  }

  /** The user of a machine, which an earlier daemon may have started; undefined where machines have no users. */
  userOf(machine: string): number | undefined {
    return this.#users?.of(machine);
  }

  /** The path at which a process of the engine finds a file of the engine. */
  pathOf(engine: StoredEngine, path: string): string {
    return this.level === "plain" ? join(engine.folder, path) : path;
  }

  /** @throws DomainError `machine_failed` when the process cannot be started behind these walls */
  async start(command: JailedCommand): Promise<DetachedProcess> {
    return (await this.spawn(command)).started;
  }

  /** Like {@link start}, and does not wait until the process runs. */
  async spawn(command: JailedCommand): Promise<SpawnedProcess> {
    const { role, logPath, args, descriptors } = command;
    const status = `status=${3 + descriptors.length}`;
    return spawnDetached({
      role,
      logPath,
      command: this.#launcher,
      args: [...this.#options(command, [`keep=${descriptors.length + 1}`, status]), "--", command.command, ...args],
      descriptors,
      reportsOn: "status",
    });
  }

  #options(command: JailedProcess, descriptors: readonly string[]): string[] {
    const { engine, cell, environment } = command;
    const groups = cell.groups.map((group) => `cgroup=${group}`);
    const limits = [`file-bytes=${command.fileBytes}`, `files=${openFiles}`, `oom=${oomScore}`];
    const user = cell.user === undefined ? [] : [`uid=${cell.user}`, `gid=${cell.user}`];
    const variables = Object.entries(environment).map(([name, value]) => `env=${name}=${value}`);
    const pair = command.pairBytes === undefined ? [] : [`pair=${command.pairBytes}`];
    const all = [...descriptors, `calls=${command.calls}`, ...pair, ...groups, ...limits, ...user, ...variables];
    if (this.level === "plain") return all;
    const isUser = this.level === "user_namespace";
    return [
      ...all,
      ...(isUser ? ["user"] : []),
      ...(command.network === "none" ? ["empty-network"] : [isUser ? "host-proc" : "proc", "empty=/tmp"]),
      `engine=${engine.folder}`,
      `mount=${this.#mountPoint}`,
      ...[...commonDevices, ...command.devices].map((path) => `device=${path}`),
      ...(cell.user === undefined ? [] : command.devices.flatMap(groupOption)),
      ...command.readable.map((path) => `ro=${path}`),
      ...command.writable.map((path) => `rw=${path}`),
    ];
  }

  /** Why a process does not start at this level; undefined when it does. */
  async #tryOut({ engine, command, args }: Trial): Promise<string | undefined> {
    const options = this.#options(
      {
        engine,
        cell: { user: this.#users?.spare, groups: [] },
        writable: [],
        readable: [],
        devices: [],
        network: "none",
        calls: "engine",
        fileBytes: 1 << 20,
        environment: {},
      },
      ["keep=0"],
    );
    try {
      await run(this.#launcher, [...options, "--", command, ...args], { timeout: trialMs });
      return undefined;
    } catch (error) {
      return messageOf(error).split("\n").slice(1).join(" ").trim() || messageOf(error);
    }
  }
}

/** A device that only members of its group may open makes the process one. */
function groupOption(device: string): string[] {
  const { mode, gid } = statSync(device);
  return (mode & 0o006) === 0o006 ? [] : [`group=${gid}`];
}

function describeWalls(
  level: JailLevel,
  host: {
    readonly isRoot: boolean;
    readonly problems: readonly string[];
    readonly groups: ControlGroups;
    /** Why there are no rules for packets; undefined when there are. */
    readonly addresses: string | undefined;
  },
): Wall[] {
  const { isRoot, problems, groups, addresses } = host;
  const hasNamespaces = level !== "plain";
  const lacking = problems.join("; ");
  const wall = (name: string, stands: boolean, kept: string, why: string): Wall => ({
    name,
    stands,
    detail: stands ? kept : why,
  });
  return [
    wall(
      "user",
      level === "full",
      "each machine runs as a user of its own",
      `all machines run as the daemon's user: ${isRoot ? lacking : "start it as root"}`,
    ),
    wall("files", hasNamespaces, "an engine sees its own files only", lacking),
    wall("processes", hasNamespaces, "an engine sees no process but its own", lacking),
    wall("network", hasNamespaces, "an engine has no network interface", lacking),
    wall(
      "addresses",
      addresses === undefined,
      "passt reaches no private address of the host's network",
      addresses ?? "",
    ),
    wall("capabilities", true, "an engine has no capability and can gain none", ""),
    wall("calls", true, "an engine makes only the system calls that it needs", ""),
    wall(
      "limits",
      true,
      "no core dumps, bounded files and descriptors, killed before the daemon when memory runs out",
      "",
    ),
    wall(
      "groups",
      groups.missing === undefined,
      "memory, processes and processor time are bounded",
      groups.missing ?? "",
    ),
  ];
}
