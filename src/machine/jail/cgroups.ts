/**
 * Control groups: one for each machine, in every hierarchy of the host that can be written, version 1 or 2. They bound what
 * a machine takes of memory, processes and processor time. They stand beside the host's own groups and not below a common
 * one, because a common group has the weight of one process however many machines are in it: on a busy host guests then
 * booted too slowly to come up.
 */
import { constants } from "node:fs";
import { access, mkdir, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "../../errors.ts";

const root = "/sys/fs/cgroup";
const controllers = ["memory", "pids", "cpu"] as const;

export interface GroupLimits {
  readonly memoryBytes: number;
  readonly processes: number;
  /** A machine weighs as much as so many processes. */
  readonly processors: number;
}

/** One hierarchy in which a group can be made. */
interface Hierarchy {
  /** The folder in which groups are made. */
  readonly folder: string;
  readonly version: 1 | 2;
  readonly controllers: readonly string[];
}

export class ControlGroups {
  /** Begins the names of this daemon's groups. */
  readonly #prefix: string;
  readonly #hierarchies: readonly Hierarchy[];
  /** Why a controller bounds nothing; undefined when all do. */
  readonly missing: string | undefined;

  private constructor(owner: string, hierarchies: readonly Hierarchy[], missing: string | undefined) {
    this.#prefix = `firkin-${owner}-`;
    this.#hierarchies = hierarchies;
    this.missing = missing;
  }

  /**
   * Finds what can be written. Never throws: a host without control groups has none of these walls.
   * @param owner tells this daemon's groups from those of others on this host
   */
  static async open(owner: string): Promise<ControlGroups> {
    const found: Hierarchy[] = [];
    const problems: string[] = [];
    const unified = await openUnified().catch((error: unknown) => void problems.push(messageOf(error)));
    if (unified) found.push(unified);
    for (const controller of controllers) {
      if (unified?.controllers.includes(controller)) continue;
      const folder = join(root, controller);
      try {
        await access(folder, constants.W_OK);
        found.push({ folder, version: 1, controllers: [controller] });
      } catch (error) {
        problems.push(messageOf(error));
      }
    }
    const has = new Set(found.flatMap((hierarchy) => hierarchy.controllers));
    const lacking = controllers.filter((controller) => !has.has(controller));
    const missing = lacking.length > 0 ? `${lacking.join(", ")} cannot be bounded: ${problems.join("; ")}` : undefined;
    return new ControlGroups(owner, found, missing);
  }

  /** Makes the groups of a machine. @returns their folders, to be joined */
  async make(name: string, limits: GroupLimits): Promise<string[]> {
    return Promise.all(
      this.#hierarchies.map(async ({ folder, version, controllers: these }) => {
        const group = join(folder, `${this.#prefix}${name}`);
        await mkdir(group, { recursive: true });
        const files = these.flatMap((controller) => limitFiles(controller, version, limits));
        await Promise.all(files.map(([file, value]) => writeFile(join(group, file), value)));
        return group;
      }),
    );
  }

  /** Removes the groups of a machine whose processes have ended. Idempotent. */
  async remove(name: string): Promise<void> {
    await Promise.all(this.#hierarchies.map(({ folder }) => removeGroup(join(folder, this.#prefix + name), "wait")));
  }

  /**
   * Removes what a daemon that died left of groups, but for those of `machines` and those with processes in them: a machine
   * without a folder may still run, and the quarantine names it.
   */
  async removeUnused(machines: ReadonlySet<string>): Promise<void> {
    const remains = (await this.#list()).filter((machine) => !machines.has(machine));
    const folders = remains.flatMap((name) => this.#hierarchies.map(({ folder }) => join(folder, this.#prefix + name)));
    await Promise.all(folders.map((folder) => removeGroup(folder, "leave a busy one")));
  }

  /** The machines of this daemon, or of an earlier one with its state folder, that have groups. */
  async #list(): Promise<string[]> {
    const names = await Promise.all(
      this.#hierarchies.map(async ({ folder }) => {
        const entries = await readdir(folder, { withFileTypes: true });
        return entries.flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
      }),
    );
    const own = names.flat().filter((name) => name.startsWith(this.#prefix));
    return [...new Set(own.map((name) => name.slice(this.#prefix.length)))];
  }
}

async function openUnified(): Promise<Hierarchy | undefined> {
  for (const base of [root, join(root, "unified")]) {
    const offered = await readFile(join(base, "cgroup.controllers"), "utf8").catch(() => undefined);
    if (offered === undefined) continue;
    const these = controllers.filter((controller) => offered.split(/\s+/).includes(controller));
    if (these.length === 0) return undefined;
    const enable = these.map((controller) => `+${controller}`).join(" ");
    await access(base, constants.W_OK);
    await writeFile(join(base, "cgroup.subtree_control"), enable);
    return { folder: base, version: 2, controllers: these };
  }
  return undefined;
}

function limitFiles(controller: string, version: 1 | 2, limits: GroupLimits): readonly (readonly [string, string])[] {
  if (controller === "pids") return [["pids.max", String(limits.processes)]];
  if (controller === "memory") {
    return [[version === 2 ? "memory.max" : "memory.limit_in_bytes", String(limits.memoryBytes)]];
  }
  const weight = limits.processors * (version === 2 ? 100 : 1024);
  return [[version === 2 ? "cpu.weight" : "cpu.shares", String(weight)]];
}

/** A group is busy until the kernel has put its last process away. */
async function removeGroup(folder: string, ifBusy: "wait" | "leave a busy one"): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await rmdir(folder);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "ENOENT") return;
      if (code === "EBUSY" && ifBusy === "leave a busy one") return;
      if (code !== "EBUSY" || attempt >= 50) throw error;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}
