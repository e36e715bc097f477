/** One running machine of the gvisor engine: started by this daemon, or adopted from an earlier one. */
import { stat } from "node:fs/promises";
import type { Socket } from "node:net";
import { join } from "node:path";
import { DomainError, messageOf } from "../../errors.ts";
import type { MachineRecord } from "../../types.ts";
import type { NetworkHealth, SaveOptions, SnapshotManifest, Vm } from "../driver.ts";
import { guardOf, healthOf, switchNetwork } from "../network/network.ts";
import { openSocket } from "../socket.ts";
import { WatchedProcess } from "../watched-process.ts";
import { keeperLogName, linkSocket } from "./box.ts";
import { diskName } from "./disk.ts";
import { reopenImage } from "./disk-save.ts";
import { cpuTimeBelow, privateBytesBelow } from "./processes.ts";
import { type PausedMachine, writeSnapshot } from "./save.ts";
import { containerName } from "./spec.ts";

/** Everything in a box ends with its keeper. */
const graces = { askedMs: 300, terminatedMs: 0 } as const;

export interface GvisorVmParts extends Omit<PausedMachine, "folder"> {
  readonly record: MachineRecord;
  /** How our child ended; absent for an adopted machine. */
  readonly childExited?: Promise<string>;
  readonly removeRemains: () => Promise<void>;
}

export class GvisorVm extends WatchedProcess implements Vm {
  readonly #parts: GvisorVmParts;
  /** A save that was to be the last one may have been given up, by this daemon or one that died. */
  #mayBeClosed: boolean;

  constructor(parts: GvisorVmParts) {
    const { record, orders, childExited, removeRemains } = parts;
    super({
      record,
      childExited,
      control: orders,
      log: { name: keeperLogName, title: "the machine's log" },
      askToEnd: () => orders.give("end", graces.askedMs),
      graces,
      removeRemains,
    });
    this.#parts = parts;
    this.#mayBeClosed = childExited === undefined;
    orders.unref();
  }

  async pause(deadlineMs?: number): Promise<void> {
    await this.#parts.orders.give(`pause ${containerName}`, deadlineMs);
  }

  async resume(deadlineMs?: number): Promise<void> {
    if (this.#mayBeClosed) await reopenImage(this.#paused);
    this.#mayBeClosed = false;
    await this.#parts.orders.give(`resume ${containerName}`, deadlineMs);
  }

  /** gVisor reports a failed access of a disk to the guest alone. */
  get blockedBy(): undefined {
    return undefined;
  }

  async diskBytes(): Promise<number> {
    const { blocks } = await stat(join(this.record.folder, diskName));
    return blocks * 512;
  }

  cpuTimeMs(): number | undefined {
    return this.isAlive ? cpuTimeBelow(this.engine.pid) : undefined;
  }

  async saveSnapshot(folder: string, options: SaveOptions): Promise<SnapshotManifest> {
    const state = await this.#parts.orders.give("state");
    if (state !== "paused") {
      throw new DomainError("invalid_state", `only a paused machine can be saved; this one is ${state}`);
    }
    this.#mayBeClosed ||= options.isLast === true;
    return writeSnapshot(this.#paused, folder, options);
  }

  get #paused(): PausedMachine {
    return { ...this.#parts, folder: this.record.folder };
  }

  async privateMemoryBytes(): Promise<number> {
    return privateBytesBelow(this.engine.pid);
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
      return await openSocket(linkSocket(this.record.folder));
    } catch (error) {
      const problem = `cannot reach the guest of ${this.record.sessionId}: ${messageOf(error)}`;
      throw new DomainError("machine_failed", problem, {}, { cause: error });
    }
  }
}
