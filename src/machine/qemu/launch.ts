/**
 * The launch of QEMU leads from the description of a machine to a process that answers: it opens the descriptors that
 * QEMU inherits, spawns it, connects to it, and undoes all of that when a step fails.
 */
import { open } from "node:fs/promises";
import { join } from "node:path";
import { DomainError, messageOf } from "../../errors.ts";
import { Scope } from "../../scope.ts";
import { type DetachedProcess, readLogTail } from "../detached-process.ts";
import type { Cell, Jail } from "../jail/jail.ts";
import { machineSide, type Network } from "../network/network.ts";
import { endProcess } from "../processes.ts";
import { type Launch, qemuArguments, qmpSocketName } from "./arguments.ts";
import { enginePath, type QemuEngine } from "./engines.ts";
import { type SharedFiles, socketsFolder } from "./machine-files.ts";
import { loadMemoryChanges } from "./memory-changes.ts";
import { QmpClient } from "./qmp.ts";

export const engineLogName = "qemu.log";

/** The first descriptor after stdin, stdout and stderr. */
const firstDescriptor = 3;

export interface LaunchedEngine {
  readonly engine: DetachedProcess;
  readonly qmp: QmpClient;
}

/** A {@link Launch} without the descriptor numbers, which `launchEngine` fills in. */
export type LaunchPlan = Omit<Launch, "networkFd" | "start"> & {
  readonly jail: Jail;
  readonly cell: Cell;
  readonly engine: QemuEngine;
  readonly files: SharedFiles;
  readonly network: Network;
  readonly start:
    | Exclude<Launch["start"], { kind: "restore" }>
    /** With `memoryChanges`, {@link loadDeferred} loads these and then the devices, once QEMU answers. */
    | { readonly kind: "restore"; readonly devices: string; readonly memoryChanges?: string };
};

/**
 * Starts QEMU and connects to its control socket. It takes over the network's socket, and not its processes.
 * @throws DomainError `machine_failed` quoting QEMU's log; nothing of QEMU is left then
 */
export async function launchEngine(
  plan: LaunchPlan,
  deadlineMs: number,
  signal?: AbortSignal,
): Promise<LaunchedEngine> {
  const logPath = join(plan.folder, engineLogName);
  const scope = new Scope();
  try {
    const engine = await spawnEngine(plan, logPath);
    scope.defer(() => endProcess(engine.identity, 0));
    const qmp = await connectUnlessExited(engine, plan, deadlineMs, signal);
    scope.release();
    return { engine, qmp };
  } catch (error) {
    await scope.close();
    signal?.throwIfAborted();
    const problem = `QEMU did not start: ${messageOf(error)}; its log ends: ${await readLogTail(logPath)}`;
    throw new DomainError("machine_failed", problem, {}, { cause: error });
  }
}

async function spawnEngine(plan: LaunchPlan, logPath: string): Promise<DetachedProcess> {
  const { jail, cell, engine, files, network, start, ...rest } = plan;
  const { memory, machine } = plan;
  const devices = start.kind === "restore" ? await open(start.devices, "r") : undefined;
  try {
    const descriptors = [...(devices ? [devices.fd] : []), await machineSide(network)];
    return await jail.start({
      role: "vm",
      command: enginePath,
      args: qemuArguments({
        ...rest,
        networkFd: firstDescriptor + descriptors.length - 1,
        start:
          start.kind === "restore"
            ? { kind: "restore", fd: firstDescriptor, deferred: start.memoryChanges !== undefined }
            : start,
      }),
      logPath,
      descriptors,
      engine,
      cell,
      writable: files.writable,
      readable: [
        ...files.readable,
        machine.baseDisk,
        ...(start.kind === "boot" ? [start.kernel, start.initramfs] : []),
      ],
      devices: plan.acceleration === "kvm" ? ["/dev/kvm"] : [],
      network: "none",
      calls: "engine",
      // A disk that is full of what was discarded is larger than what it holds.
      fileBytes: Math.max(machine.diskMiB * 1.25 + 256, machine.memoryMiB) * 2 ** 20,
      environment: memory.shared
        ? {}
        : { LD_PRELOAD: jail.pathOf(engine, engine.privateMemory), FIRKIN_READ_ONLY: memory.path },
    });
  } finally {
    await devices?.close();
    network.socket.destroy();
  }
}

/** A QEMU that refuses its arguments exits at once, and then its socket is not waited for. */
async function connectUnlessExited(
  engine: DetachedProcess,
  { folder, cell: { user: owner } }: LaunchPlan,
  deadlineMs: number,
  signal?: AbortSignal,
): Promise<QmpClient> {
  const gone = new AbortController();
  const stop = signal ? AbortSignal.any([signal, gone.signal]) : gone.signal;
  let connected = false;
  void engine.exited.then((how) => {
    if (!connected) gone.abort(new DomainError("machine_failed", how));
  });
  const qmp = await QmpClient.connect(join(socketsFolder(folder), qmpSocketName), { deadlineMs, signal: stop, owner });
  connected = true;
  return qmp;
}

/**
 * Loads the pages in which a VM's memory differs from the image that it maps, and then its devices, which read the
 * memory.
 * @param memoryPath the image
 * @throws DomainError `machine_failed`
 */
export async function loadDeferred(
  { engine, qmp }: LaunchedEngine,
  memoryPath: string,
  changesPath: string,
): Promise<void> {
  await loadMemoryChanges(engine.identity.pid, memoryPath, changesPath);
  await qmp.execute("migrate-incoming", { uri: `fd:${firstDescriptor}` });
}

/**
 * Waits until a VM that loads its device state runs. QEMU continues by itself when the state is loaded.
 * @throws DomainError `machine_failed` when QEMU ends, `deadline_exceeded`
 */
export async function waitUntilRunning(launched: LaunchedEngine, deadlineMs: number): Promise<void> {
  const { qmp } = launched;
  const running = new Promise<void>((resolve, reject) => {
    const stopListening = qmp.onEvent((event) => {
      if (event === "RESUME") settle(resolve);
    });
    const timer = setTimeout(() => {
      settle(() => reject(new DomainError("deadline_exceeded", `the VM does not run after ${deadlineMs} ms`)));
    }, deadlineMs);
    const settle = (end: () => void) => {
      clearTimeout(timer);
      stopListening();
      end();
    };
    void qmp.closed.then((reason) => settle(() => reject(reason)));
    queryStatus(qmp).then(
      (status) => {
        if (status === "running") settle(resolve);
      },
      (error: unknown) => settle(() => reject(error)),
    );
  });
  await running;
}

/** The run state of a QEMU that stopped by itself, because an access of its disk failed. */
export const blockedStatus = "io-error";

/** QEMU's run state: `running`, `paused`, `inmigrate`, `shutdown` … */
export async function queryStatus(qmp: Pick<QmpClient, "execute">): Promise<string> {
  const answer = (await qmp.execute("query-status")) as { status?: unknown };
  return String(answer.status);
}
