/**
 * The start of a box (`box.c`): the namespaces, mounts and users that one gVisor machine lives in, with its keeper,
 * which is the process that stands for the machine.
 */
import { chmod, chown, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DomainError, messageOf } from "../../errors.ts";
import { Scope } from "../../scope.ts";
import { type DetachedProcess, readLogTail, startDetached } from "../detached-process.ts";
import { guestNetwork, machineSide, type Network } from "../network/network.ts";
import { endProcess } from "../processes.ts";
import { diskName, type PreparedDisk } from "./disk.ts";
import type { GvisorMachine } from "./machine.ts";
import { Orders } from "./orders.ts";
import { agentName, containerName, containerSpec, inBox, runscFlags } from "./spec.ts";
import { firstFileOwner } from "./users.ts";

/** The program of the keeper, as the list of processes has it. */
export const keeperCommand = inBox.keeper.slice(1);
export const keeperLogName = "keeper.log";

/** Above the daemon's own, so that the kernel takes a machine first when memory runs out. */
const oomScore = 500;
const connectDeadlineMs = 10_000;
const devices = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/** Programs of the host, found once per daemon. */
export interface BoxTools {
  readonly launcher: string;
  readonly keeper: string;
  /** See `image.c`. */
  readonly image: string;
  /** An empty folder. */
  readonly mountPoint: string;
}

export interface BoxPlan {
  readonly tools: BoxTools;
  /** Path of the program. */
  readonly runsc: string;
  /** The machine's folder, with its disk. */
  readonly folder: string;
  readonly machine: GvisorMachine;
  /** A base disk's image, or the folder with its files. */
  readonly base: string;
  readonly disk: PreparedDisk;
  /** The first of the users in the box. */
  readonly users: number;
  readonly groups: readonly string[];
  readonly network: Network;
  /** Whether {@link checkpointFolder} has a checkpoint to be restored. Otherwise the machine boots. */
  readonly isRestored: boolean;
}

export interface StartedBox {
  readonly process: DetachedProcess;
  readonly orders: Orders;
}

const folders = (folder: string) => ({
  agent: join(folder, "agent"),
  bundle: join(folder, "bundle"),
  image: join(folder, "image"),
  restored: join(folder, "restored"),
  sockets: join(folder, "run"),
});

/** Where the launcher packs the disk: see `box_packer.h`. */
export const packerSocket = (folder: string) => join(folders(folder).sockets, "packer");
export const ordersSocket = (folder: string) => join(folders(folder).sockets, "orders");
export const linkSocket = (folder: string) => join(folders(folder).sockets, "link");
export const agentFolder = (folder: string) => folders(folder).agent;
/** Where checkpoints are written. */
export const imageFolder = (folder: string) => folders(folder).image;
/** The checkpoint that the machine was restored from. */
export const checkpointFolder = (folder: string) => folders(folder).restored;

/** Makes the folders of a machine whose first user this is. */
export async function makeFolders(folder: string, users: number): Promise<void> {
  const { agent, bundle, image, sockets } = folders(folder);
  await Promise.all([agent, bundle, image].map((path) => mkdir(path, { mode: 0o755 })));
  await mkdir(sockets, { mode: 0o700 });
  await chown(image, users, users);
}

/**
 * Starts the box and what is in it: a machine that boots or goes on.
 * @throws DomainError `machine_failed` quoting the keeper's log; nothing of the box is left then
 */
export async function startBox(plan: BoxPlan, signal?: AbortSignal): Promise<StartedBox> {
  const { folder, machine } = plan;
  const { bundle, agent } = folders(folder);
  await writeFile(join(bundle, "config.json"), JSON.stringify(containerSpec()), { mode: 0o644 });
  await writeFile(join(bundle, "meminfo"), `MemTotal: ${machine.memoryMiB * 1024} kB\n`, { mode: 0o644 });
  await chmod(join(agent, agentName), 0o555);
  const scope = new Scope();
  try {
    const process = await launch(plan);
    scope.defer(() => endProcess(process.identity, 0));
    const orders = await Orders.connect(ordersSocket(folder), {
      deadlineMs: connectDeadlineMs,
      ...(signal ? { signal } : {}),
    });
    scope.defer(async () => orders.close());
    signal?.throwIfAborted();
    const common = `--bundle=${inBox.bundle} --pid-file=/state/pid`;
    if (plan.isRestored) {
      // In the background: pages of the memory are read when they are used.
      await orders.give(`restore --detach --background ${common} --image-path=${inBox.restored} ${containerName}`);
    } else {
      await orders.give(`create ${common} ${containerName}`);
      await orders.give(`start ${containerName}`);
    }
    scope.release();
    return { process, orders };
  } catch (error) {
    const tail = await readLogTail(join(folder, keeperLogName));
    await scope.close();
    signal?.throwIfAborted();
    const problem = `gVisor did not start: ${messageOf(error)}; the keeper's log ends: ${tail}`;
    throw new DomainError("machine_failed", problem, {}, { cause: error });
  }
}

async function launch(plan: BoxPlan): Promise<DetachedProcess> {
  const { tools, runsc, folder, machine, base, disk, users, groups, network, isRestored } = plan;
  const { agent, bundle, image, restored } = folders(folder);
  const { address, prefix, gateway } = guestNetwork;
  const options = [
    `folder=${folder}`,
    `mount=${tools.mountPoint}`,
    `base=${base}`,
    `disk=${join(folder, diskName)}`,
    ...(disk.packed ? [`packed=${disk.packed}`] : []),
    `packer=${packerSocket(folder)}`,
    ...disk.images.map((path) => `layer=${path}`),
    `ro=${tools.keeper}:${inBox.keeper}`,
    `ro=${runsc}:${inBox.runsc}`,
    `ro=${agent}:${inBox.agentFolder}`,
    `ro=${bundle}:${inBox.bundle}`,
    `rw=${image}:${inBox.image}`,
    ...(isRestored ? [`ro=${restored}:${inBox.restored}`] : []),
    ...devices.map((path) => `rw=${path}:${path}`),
    `socket=${ordersSocket(folder)}`,
    `socket=${linkSocket(folder)}`,
    `meminfo=${inBox.bundle}/meminfo`,
    `users=${users}`,
    `owners=${firstFileOwner}`,
    `network=${address}/${prefix},${gateway}`,
    ...groups.map((path) => `cgroup=${path}`),
    `oom=${oomScore}`,
    "status=4",
  ];
  try {
    return await startDetached({
      role: "vm",
      command: tools.launcher,
      // The folder, with its slash, by which a later daemon finds the process of a machine that nobody wrote down.
      args: [...options, "--", inBox.keeper, `${folder}/`, String(machine.vcpuCount), inBox.runsc, ...runscFlags],
      logPath: join(folder, keeperLogName),
      descriptors: [await machineSide(network)],
      reportsOn: "status",
    });
  } finally {
    network.socket.destroy();
  }
}
