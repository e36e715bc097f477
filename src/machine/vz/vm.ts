/** One running VM of the vz engine: started by this daemon, or adopted from an earlier one. */
import { stat } from "node:fs/promises";
import type { Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { MachineRecord } from "../../types.ts";
import { printable } from "../detached-process.ts";
import type { EngineInfo, SaveOptions, SnapshotManifest, Vm } from "../driver.ts";
import { endProcess, isRunning } from "../processes.ts";
import { removeRemains } from "../remains.ts";
import { WatchedProcess } from "../watched-process.ts";
import { openGuestStream } from "./guest-stream.ts";
import type { HelperClient } from "./helper-client.ts";
import { nothingSchema, statsSchema } from "./helper-messages.ts";
import { helperLogName, streamSocketName, terminatedGraceMs } from "./helper-process.ts";
import { diskName, type VzMachine } from "./machine.ts";
import { type PausedMachine, writeSnapshot } from "./save.ts";

/** The port at which the guest's agent listens. The kernel's command line tells it. */
export const agentPort = 1024;

/** A kernel boots, and its agent listens, well within this; until then the guest refuses connections. */
const linkDeadlineMs = 60_000;
const linkRetryMs = 20;
const transitionDeadlineMs = 30_000;
/** A helper that answers ends within the first; the rest is for one that saves, restores or hangs. */
const graces = { askedMs: 2000, terminatedMs: terminatedGraceMs } as const;
/** The end of the control connection tells at once. Each look is a run of `ps`. */
const watchMs = 5000;

export interface VzVmParts {
  readonly record: MachineRecord;
  readonly machine: VzMachine;
  readonly info: EngineInfo;
  readonly client: HelperClient;
  readonly identify: PausedMachine["identify"];
  /** How our child ended; absent for an adopted VM. */
  readonly childExited?: Promise<string>;
  /** Ends the framework's machine if it goes on without its helper. */
  readonly endOrphan: () => Promise<void>;
}

export class VzVm extends WatchedProcess implements Vm {
  readonly #parts: VzVmParts;
  readonly #client: HelperClient;

  constructor(parts: VzVmParts) {
    const { record, client, childExited, endOrphan } = parts;
    let stopped = false;
    super({
      record,
      childExited,
      control: client,
      log: { name: helperLogName, title: "the helper's log" },
      askToEnd: async () => {
        await client.request({ op: "stop" }, nothingSchema, graces.askedMs);
        stopped = true;
      },
      watchMs,
      graces,
      removeRemains: async () => {
        if (!stopped) await endOrphan();
        await removeRemains(record, 0);
      },
    });
    this.#parts = parts;
    this.#client = client;
    client.unref();
    client.onState((state, detail) => {
      if (state !== "stopped" && state !== "failed") return;
      void this.#endAfterMachine(detail ?? `the machine is ${state}`);
    });
  }

  /** The framework reports a failed access of a disk to the guest alone. */
  get blockedBy(): undefined {
    return undefined;
  }

  async diskBytes(): Promise<number> {
    const { blocks } = await stat(join(this.record.folder, diskName));
    return blocks * 512;
  }

  /** The network is the framework's, which says nothing of it. */
  networkHealth(): undefined {
    return undefined;
  }

  async pause(deadlineMs: number = transitionDeadlineMs): Promise<void> {
    await this.#client.request({ op: "pause" }, nothingSchema, deadlineMs);
  }

  async resume(deadlineMs: number = transitionDeadlineMs): Promise<void> {
    await this.#client.request({ op: "resume" }, nothingSchema, deadlineMs);
  }

  /** The guest's processors run in a process of the framework, which it does not name. */
  cpuTimeMs(): undefined {
    return undefined;
  }

  saveSnapshot(folder: string, options: SaveOptions): Promise<SnapshotManifest> {
    return writeSnapshot(this.#parts, folder, options);
  }

  /** @throws DomainError `unsupported` for true when the machine's network device leads nowhere */
  async setInternetAccess(allowed: boolean): Promise<void> {
    const { network } = this.#parts.info.abilities;
    if (!allowed || network.supported) return;
    throw new DomainError("unsupported", `the vz engine cannot connect a machine to the internet: ${network.reason}`);
  }

  /** Memory of the helper. The guest's own memory is in a process of the framework, which it does not name. */
  async privateMemoryBytes(): Promise<number> {
    return (await this.#client.request({ op: "stats" }, statsSchema)).footprintBytes;
  }

  /** A guest refuses connections until its agent listens. */
  protected override async dialGuest(signal: AbortSignal): Promise<Socket> {
    const path = join(this.record.folder, streamSocketName);
    const end = performance.now() + linkDeadlineMs;
    for (;;) {
      try {
        return await openGuestStream(path, agentPort, { deadlineMs: linkDeadlineMs, signal });
      } catch (error) {
        signal.throwIfAborted();
        const refused = isDomainError(error, "machine_failed") && isRunning(this.engine) && !this.isEnding;
        if (refused && performance.now() < end) {
          await delay(linkRetryMs);
          continue;
        }
        const problem = `cannot reach the guest of ${this.record.sessionId}: ${messageOf(error)}`;
        throw new DomainError("machine_failed", problem, {}, { cause: error });
      }
    }
  }

  /** A helper stays after its machine ended, so that it can say why; then the helper is ended. */
  async #endAfterMachine(detail: string): Promise<void> {
    if (this.isEnding || this.endedBecause) return;
    this.endedBecause = printable(detail);
    await endProcess(this.engine, graces.askedMs).catch(() => {});
  }
}
