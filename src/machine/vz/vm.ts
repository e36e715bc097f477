/** One VM of the vz engine that runs: started by this daemon or adopted from an earlier one. */
import type { Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { DomainError, isDomainError, messageOf } from "../../errors.ts";
import type { MachineRecord, ProcessIdentity } from "../../types.ts";
import { printable, readLogTail } from "../detached-process.ts";
import type { EngineInfo, SaveOptions, SnapshotManifest, Vm, VmExit } from "../driver.ts";
import { endProcess, isRunning, waitUntilGone } from "../processes.ts";
import { removeRemains } from "../remains.ts";
import { openGuestStream } from "./guest-stream.ts";
import type { HelperClient } from "./helper-client.ts";
import { nothingSchema, statsSchema } from "./helper-messages.ts";
import { helperLogName, streamSocketName } from "./helper-process.ts";
import type { VzMachine } from "./machine.ts";
import { saveSnapshot } from "./save.ts";

/** Where the guest's agent listens; the kernel's command line tells it. */
export const agentPort = 1024;

/** A kernel boots, and its agent listens, well within this; until then the guest refuses connections. */
const linkDeadlineMs = 60_000;
const linkRetryMs = 20;
const transitionDeadlineMs = 30_000;
/** How long a helper may take over ending in order before it is killed: its disk is thrown away. */
const stopGraceMs = 500;
/** How often a helper that is not our child is looked at. */
const watchMs = 250;

export interface VzVmParts {
  readonly record: MachineRecord;
  readonly machine: VzMachine;
  readonly info: EngineInfo;
  readonly client: HelperClient;
  /** How our child ended; absent for an adopted VM. */
  readonly childExited?: Promise<string>;
}

export class VzVm implements Vm {
  readonly record: MachineRecord;
  readonly exited: Promise<VmExit>;
  readonly #machine: VzMachine;
  readonly #info: EngineInfo;
  readonly #client: HelperClient;
  readonly #helper: ProcessIdentity;
  /** The connection of the guest link, of which there is at most one. */
  #link: Socket | undefined;
  /** The tear-down under way or done; cleared when it failed, so that it can be tried again. */
  #ending: Promise<void> | undefined;
  /** Why the machine ended by itself. */
  #machineEnd: string | undefined;
  readonly #watch = new AbortController();
  /** Called by `terminate()` once the process is gone, so that `exited` need not wait to hear of it. */
  #confirmGone: (() => void) | undefined;

  constructor(parts: VzVmParts) {
    const helper = parts.record.processes.find((process) => process.role === "vm");
    if (!helper) throw new DomainError("internal", "a machine record without a VM process");
    this.record = parts.record;
    this.#machine = parts.machine;
    this.#info = parts.info;
    this.#client = parts.client;
    this.#helper = helper;
    this.exited = this.#watchForExit(parts.childExited);
    parts.client.unref();
    parts.client.onState((state, detail) => {
      if (state !== "stopped" && state !== "failed") return;
      void this.#endAfterMachine(detail ?? `the machine is ${state}`);
    });
  }

  async openGuestLink(signal?: AbortSignal): Promise<Socket> {
    this.#link?.destroy();
    const stop = AbortSignal.any([this.#watch.signal, ...(signal ? [signal] : [])]);
    const socket = await this.#dialAgent(stop);
    this.#link = socket;
    socket.once("close", () => {
      if (this.#link === socket) this.#link = undefined;
    });
    if (!this.#ending && !signal?.aborted) return socket;
    socket.on("error", () => {});
    socket.destroy();
    signal?.throwIfAborted();
    throw new DomainError("machine_failed", "the VM is being terminated");
  }

  async pause(): Promise<void> {
    await this.#client.request({ op: "pause" }, nothingSchema, transitionDeadlineMs);
  }

  async resume(): Promise<void> {
    await this.#client.request({ op: "resume" }, nothingSchema, transitionDeadlineMs);
  }

  async saveSnapshot(folder: string, { bootId, memory = true }: SaveOptions): Promise<SnapshotManifest> {
    return saveSnapshot({ folder, bootId, memory, info: this.#info, machine: this.#machine, client: this.#client });
  }

  /** @throws DomainError `unsupported` for true: the device leads nowhere */
  async setInternetAccess(allowed: boolean): Promise<void> {
    const { network } = this.#info.abilities;
    if (!allowed || network.supported) return;
    throw new DomainError("unsupported", `the vz engine cannot connect a machine to the internet: ${network.reason}`);
  }

  /** Of the helper; the guest's own memory is the framework's, in a process that it does not name. */
  async privateMemoryBytes(): Promise<number> {
    return (await this.#client.request({ op: "stats" }, statsSchema)).footprintBytes;
  }

  terminate(): Promise<void> {
    this.#ending ??= this.#terminate().catch((error: unknown) => {
      this.#ending = undefined;
      throw error;
    });
    return this.#ending;
  }

  async release(): Promise<void> {
    this.#watch.abort(new DomainError("machine_failed", "the VM was released"));
    this.#link?.destroy();
    this.#client.close();
  }

  /** A guest refuses connections until its agent listens. */
  async #dialAgent(signal: AbortSignal): Promise<Socket> {
    const path = join(this.record.folder, streamSocketName);
    const end = performance.now() + linkDeadlineMs;
    for (;;) {
      try {
        return await openGuestStream(path, agentPort, { deadlineMs: linkDeadlineMs, signal });
      } catch (error) {
        signal.throwIfAborted();
        const refused = isDomainError(error, "machine_failed") && isRunning(this.#helper) && !this.#ending;
        if (refused && performance.now() < end) {
          await delay(linkRetryMs);
          continue;
        }
        const problem = `cannot reach the guest of ${this.record.sessionId}: ${messageOf(error)}`;
        throw new DomainError("machine_failed", problem, {}, { cause: error });
      }
    }
  }

  async #terminate(): Promise<void> {
    this.#link?.destroy();
    if (isRunning(this.#helper)) {
      // Its answer does not matter: the process going does.
      this.#client.request({ op: "stop" }, nothingSchema, stopGraceMs).catch(() => {});
      if (!(await waitUntilGone(this.#helper, stopGraceMs))) await endProcess(this.#helper, 0);
    }
    this.#client.close();
    await removeRemains(this.record, 0);
    this.#confirmGone?.();
    await this.exited;
    this.#watch.abort(new DomainError("machine_failed", "the VM was terminated"));
  }

  /** Resolves when the process is gone, whoever ended it; rejects never. */
  async #watchForExit(childExited: Promise<string> | undefined): Promise<VmExit> {
    const confirmed = new Promise<string>((resolve) => {
      this.#confirmGone = () => resolve("terminated");
    });
    const how = await Promise.race([confirmed, childExited ?? this.#pollForExit()]);
    const logTail = this.#ending ? "" : await readLogTail(join(this.record.folder, helperLogName));
    if (this.#ending) return { reason: "terminated" };
    this.#link?.destroy();
    return { reason: "died", detail: `${this.#machineEnd ?? how}; the helper's log ends: ${logTail}` };
  }

  /** Of a process that is no child of ours: its closing control connection tells at once, a slow poll tells for sure. */
  async #pollForExit(): Promise<string> {
    await Promise.race([this.#client.closed, this.#waitUntilGone()]);
    if (!this.#watch.signal.aborted && !(await waitUntilGone(this.#helper, 1000))) await this.#waitUntilGone();
    return "the process is gone";
  }

  /** After `release()` nobody watches any more, and this never resolves. */
  async #waitUntilGone(): Promise<void> {
    while (isRunning(this.#helper)) {
      if (this.#watch.signal.aborted) await new Promise<never>(() => {});
      await delay(watchMs, undefined, { ref: false, signal: this.#watch.signal }).catch(() => {});
    }
  }

  /** A helper stays after its machine ended, so that it can say why; now it can go. */
  async #endAfterMachine(detail: string): Promise<void> {
    if (this.#ending || this.#machineEnd) return;
    this.#machineEnd = printable(detail);
    await endProcess(this.#helper, 0).catch(() => {});
  }
}
