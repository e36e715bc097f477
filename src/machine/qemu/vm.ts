/** One running VM of the qemu engine: started by this daemon, or adopted from an earlier one. */
import { stat, truncate } from "node:fs/promises";
import type { Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { DomainError, messageOf } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import type { MachineRecord } from "../../types.ts";
import { printable } from "../detached-process.ts";
import type { NetworkHealth, SaveOptions, SnapshotManifest, Vm } from "../driver.ts";
import { guardOf, healthOf, switchNetwork } from "../network/network.ts";
import { cpuTimeOf, endProcess } from "../processes.ts";
import { openSocket } from "../socket.ts";
import { WatchedProcess } from "../watched-process.ts";
import { agentSocketName } from "./arguments.ts";
import { diskName } from "./disk.ts";
import { blockedStatus, engineLogName, queryStatus } from "./launch.ts";
import type { RunningMachine } from "./machine.ts";
import { findSockets } from "./machine-files.ts";
import { readAnonymousBytes } from "./memory.ts";
import type { QmpClient } from "./qmp.ts";
import { type PausedMachine, writeSnapshot } from "./save.ts";
import { readConsole } from "./watchdog.ts";

/** QEMU's disk is thrown away, so there is no reason to wait long. The network ends with QEMU. */
const graces = { askedMs: 300, terminatedMs: 300 } as const;
/** How often the log of a VM is looked at. */
const logCheckMs = 10_000;
const maxLogBytes = 1 << 20;

/** The qemu engine's parts of a {@link Vm}. */
export interface QemuVmParts {
  readonly record: MachineRecord;
  readonly running: RunningMachine;
  readonly qmp: QmpClient;
  /** See {@link Vm.blockedBy}; of a machine that is taken over. */
  readonly blockedBy?: string;
  readonly host: PausedMachine["host"];
  /** How our child ended; absent for an adopted VM. */
  readonly childExited?: Promise<string>;
  /** The user who its QEMU runs as; undefined: the daemon's own. */
  readonly user: number | undefined;
  /** See {@link WatchedProcessParts.removeRemains}. */
  readonly removeRemains: () => Promise<void>;
  readonly log: Logger;
}

export class QemuVm extends WatchedProcess implements Vm {
  readonly #running: RunningMachine;
  readonly #qmp: QmpClient;
  readonly #user: number | undefined;
  readonly #host: PausedMachine["host"];
  readonly #log: Logger;
  #blockedBy: string | undefined;

  constructor({ record, running, qmp, blockedBy, host, childExited, user, removeRemains, log }: QemuVmParts) {
    super({
      record,
      childExited,
      control: qmp,
      log: { name: engineLogName, title: "the engine's log" },
      askToEnd: () => qmp.execute("quit", {}, graces.askedMs),
      graces,
      removeRemains,
    });
    this.#user = user;
    this.#running = running;
    this.#qmp = qmp;
    this.#host = host;
    this.#log = log;
    this.#blockedBy = blockedBy;
    qmp.unref();
    qmp.onEvent((event, data) => {
      // The reasons of a host's own `quit` have guest: false.
      if (event === "SHUTDOWN" && data.guest === true) void this.#endAfterGuest(String(data.reason));
      if (event === "BLOCK_IO_ERROR" && data.action === "stop") this.#blockedBy = String(data.reason);
      if (event === "RESUME") this.#blockedBy = undefined;
    });
    void this.#boundLog();
  }

  async pause(deadlineMs?: number): Promise<void> {
    await this.#qmp.execute("stop", {}, deadlineMs);
  }

  async resume(deadlineMs?: number): Promise<void> {
    await this.#qmp.execute("cont", {}, deadlineMs);
  }

  get blockedBy(): string | undefined {
    return this.#blockedBy;
  }

  async diskBytes(): Promise<number> {
    const { blocks } = await stat(join(this.record.folder, diskName));
    return blocks * 512;
  }

  cpuTimeMs(): number | undefined {
    return cpuTimeOf(this.engine);
  }

  async saveSnapshot(folder: string, options: SaveOptions): Promise<SnapshotManifest> {
    const status = await queryStatus(this.#qmp);
    if (status === blockedStatus) {
      const problem = `the machine stands still, because the host's disk does not serve it: ${this.#blockedBy}`;
      throw new DomainError("disk_pressure", problem);
    }
    if (status !== "paused") {
      throw new DomainError("invalid_state", `only a paused VM can be saved; this one is ${status}`);
    }
    const [running, qmp, host] = [this.#running, this.#qmp, this.#host];
    const paused = { folder: this.record.folder, pid: this.engine.pid, running, qmp, host };
    return writeSnapshot(paused, folder, options);
  }

  async privateMemoryBytes(): Promise<number> {
    return readAnonymousBytes(this.engine.pid);
  }

  setInternetAccess(allowed: boolean): Promise<void> {
    return switchNetwork(guardOf(this.record), allowed);
  }

  networkHealth(): NetworkHealth | undefined {
    const guard = guardOf(this.record);
    return guard && healthOf(guard);
  }

  protected override async dialGuest(): Promise<Socket> {
    try {
      return await openSocket(join(await findSockets(this.record.folder), agentSocketName), this.#user);
    } catch (error) {
      const problem = `cannot reach the guest of ${this.record.sessionId}: ${messageOf(error)}`;
      throw new DomainError("machine_failed", problem, {}, { cause: error });
    }
  }

  /** QEMU stays, stopped, after its guest ended, so that the console can be read; then QEMU is ended. */
  async #endAfterGuest(reason: string): Promise<void> {
    try {
      const console = printable(await readConsole(this.#qmp)).slice(-1000);
      this.endedBecause = `the guest ended itself (${reason}); its console ends: ${console}`;
      await this.#qmp.execute("quit");
    } catch (error) {
      this.#log.warn({ sessionId: this.record.sessionId, error: messageOf(error) }, "a guest ended and QEMU did not");
      await endProcess(this.engine, 0);
    }
  }

  /** A guest can make QEMU complain; it must not fill the disk with that. The log is opened for appending. */
  async #boundLog(): Promise<void> {
    const path = join(this.record.folder, engineLogName);
    while (!this.watching.aborted && !this.isEnding) {
      const size = await stat(path).then(
        (found) => found.size,
        () => 0,
      );
      if (size > maxLogBytes) await truncate(path).catch(() => {});
      await delay(logCheckMs, undefined, { ref: false, signal: this.watching }).catch(() => {});
    }
  }
}
