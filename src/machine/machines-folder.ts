/**
 * The folder of an engine's machines holds one folder for each, named after its session, with the files the machine
 * runs on. This file makes and removes them so that a start that fails leaves nothing, and finds machines that a daemon
 * started and died before it wrote them down.
 */
import { mkdir } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { DomainError, messageOf } from "../errors.ts";
import type { Logger } from "../log.ts";
import { Scope } from "../scope.ts";
import type { EngineName, MachineRecord } from "../types.ts";
import { explainDiskFull } from "./disk-full.ts";
import type { Vm } from "./driver.ts";
import { findProcessesIn, nameIn } from "./processes.ts";
import { removeRemains } from "./remains.ts";

export interface MachinesFolderOptions {
  readonly engine: EngineName;
  /** Absolute. */
  readonly path: string;
  /** Every machine is a process of this program. */
  readonly program: string;
  /** @throws DomainError when sockets in this folder of a machine would have too long a path */
  readonly checkSocketPaths: (folder: string) => void;
  /** Gives back what a machine had besides its folder and its processes. Idempotent. */
  readonly giveBack?: (sessionId: string) => Promise<void>;
  readonly log: Logger;
}

export class MachinesFolder {
  readonly #options: MachinesFolderOptions;

  constructor(options: MachinesFolderOptions) {
    this.#options = options;
  }

  /**
   * Makes a machine's folder. When `fill` fails the folder is removed again, after everything that `fill` put into the
   * scope was undone.
   * @throws DomainError `invalid_argument`, `already_exists`, `disk_pressure`; the signal's reason; what `fill` throws
   */
  async inNew(
    sessionId: string,
    signal: AbortSignal | undefined,
    fill: (folder: string, scope: Scope) => Promise<Vm>,
  ): Promise<Vm> {
    const { engine, path, checkSocketPaths, log } = this.#options;
    signal?.throwIfAborted();
    if (!/^[A-Za-z0-9_-]+$/.test(sessionId)) throw new DomainError("invalid_argument", `bad session id ${sessionId}`);
    const folder = join(path, sessionId);
    checkSocketPaths(folder);
    await mkdir(folder, { mode: 0o700 }).catch((error: unknown) => {
      const problem = new DomainError("already_exists", `no new machine: ${messageOf(error)}`, {}, { cause: error });
      throw explainDiskFull(problem, "start a machine", path);
    });
    const scope = new Scope();
    scope.defer(() => this.remove({ engine, sessionId, folder, processes: [] }, 0));
    try {
      const vm = await fill(folder, scope);
      signal?.throwIfAborted();
      scope.release();
      return vm;
    } catch (error) {
      await scope.close().catch((cleanUpError: unknown) => {
        log.error({ sessionId, error: messageOf(cleanUpError) }, "the remains of a failed start cannot be removed");
      });
      signal?.throwIfAborted();
      throw explainDiskFull(error, "start a machine", path);
    }
  }

  /**
   * Refuses a record of a machine outside of this folder. Records come from a database, and no entry there may make the
   * daemon touch other files.
   * @throws DomainError `invalid_argument`
   */
  checkOwned({ engine, folder }: MachineRecord): void {
    if (engine === this.#options.engine && dirname(resolve(folder)) === this.#options.path) return;
    throw new DomainError("invalid_argument", `${folder} is no machine of the engine ${this.#options.engine}`);
  }

  /**
   * Ends the recorded processes of a machine, and those that a daemon started in its folder and died before it wrote
   * them down. The machine's own process ends first, because the network ends with it.
   * @param networkGraceMs how long the network may take to end by itself
   * @throws AggregateError, DomainError naming what could not be removed
   */
  async discard(record: MachineRecord, networkGraceMs: number): Promise<void> {
    this.checkOwned(record);
    const unrecorded = findProcessesIn(record.folder, "vm", this.#options.program).filter(
      ({ pid }) => !record.processes.some((process) => process.pid === pid),
    );
    const machineFirst = [...record.processes, ...unrecorded].sort((one, other) => other.role.localeCompare(one.role));
    await this.remove({ ...record, processes: machineFirst }, networkGraceMs);
  }

  /** Ends the recorded processes and removes the folder, and gives back what belongs to it. @throws as {@link discard} */
  async remove(record: MachineRecord, networkGraceMs: number): Promise<void> {
    await removeRemains(record, networkGraceMs);
    await this.#options.giveBack?.(record.sessionId);
  }

  /** Machines that run here and are not among the known sessions. */
  findStrays(known: ReadonlySet<string>): MachineRecord[] {
    const { engine, path, program } = this.#options;
    return findProcessesIn(path, "vm", program).flatMap((process) => {
      const sessionId = nameIn(path, process.pid);
      if (!sessionId || known.has(sessionId)) return [];
      return [{ engine, sessionId, folder: join(path, sessionId), processes: [process] }];
    });
  }
}
