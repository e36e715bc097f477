/** One VM of the qemu engine that runs: started by this daemon or adopted from an earlier one. */
import { stat, truncate } from "node:fs/promises";
import type { Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { DomainError, messageOf } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import type { MachineRecord, ProcessIdentity } from "../../types.ts";
import { printable, readLogTail } from "../detached-process.ts";
import type { SaveOptions, SnapshotManifest, Vm, VmExit } from "../driver.ts";
import { endProcess, isRunning, waitUntilGone } from "../processes.ts";
import { removeRemains } from "../remains.ts";
import { agentSocketName } from "./arguments.ts";
import { engineLogName, queryStatus } from "./launch.ts";
import type { RunningMachine } from "./machine.ts";
import { readAnonymousBytes } from "./memory.ts";
import { switchNetwork } from "./network.ts";
import { type QmpClient, tryConnect } from "./qmp.ts";
import { saveSnapshot } from "./save.ts";
import { readConsole } from "./watchdog.ts";

/** How long QEMU may take over `quit` before it is killed: its disk is thrown away, so there is nothing to wait for. */
const quitGraceMs = 300;
/** The network ends with QEMU; it is helped along after this. */
const networkGraceMs = 200;
/** How often a VM that is not our child is looked at, and every VM's log. */
const watchMs = 250;
const maxLogBytes = 1 << 20;

/** The qemu engine's parts of a {@link Vm}. */
export interface QemuVmParts {
  readonly record: MachineRecord;
  readonly running: RunningMachine;
  readonly qmp: QmpClient;
  /** How our child ended; absent for an adopted VM. */
  readonly childExited?: Promise<string>;
  readonly log: Logger;
}

export class QemuVm implements Vm {
  readonly record: MachineRecord;
  readonly exited: Promise<VmExit>;
  readonly #running: RunningMachine;
  readonly #qmp: QmpClient;
  readonly #engine: ProcessIdentity;
  readonly #log: Logger;
  /** The connection of the guest link, of which there is at most one. */
  #link: Socket | undefined;
  /** The tear-down under way or done; cleared when it failed, so that it can be tried again. */
  #ending: Promise<void> | undefined;
  /** Why the guest stopped by itself, with the end of its console. */
  #guestEnd: string | undefined;
  readonly #watch = new AbortController();
  /** Called by `terminate()` once the process is gone, so that `exited` need not wait to hear of it. */
  #confirmGone: (() => void) | undefined;

  constructor(parts: QemuVmParts) {
    const engine = parts.record.processes.find((process) => process.role === "vm");
    if (!engine) throw new DomainError("internal", "a machine record without a VM process");
    this.record = parts.record;
    this.#running = parts.running;
    this.#qmp = parts.qmp;
    this.#engine = engine;
    this.#log = parts.log;
    this.exited = this.#watchForExit(parts.childExited);
    parts.qmp.unref();
    parts.qmp.onEvent((event, data) => {
      // The reasons of a host's own `quit` have guest: false.
      if (event === "SHUTDOWN" && data.guest === true) void this.#endAfterGuest(String(data.reason));
    });
    void this.#boundLog();
  }

  async openGuestLink(signal?: AbortSignal): Promise<Socket> {
    signal?.throwIfAborted();
    this.#link?.destroy();
    try {
      const socket = await tryConnect(join(this.record.folder, agentSocketName));
      this.#link = socket;
      socket.once("close", () => {
        if (this.#link === socket) this.#link = undefined;
      });
      if (this.#ending || signal?.aborted) {
        socket.on("error", () => {});
        socket.destroy();
        signal?.throwIfAborted();
        throw new DomainError("machine_failed", "the VM is being terminated");
      }
      return socket;
    } catch (error) {
      if (error instanceof DomainError || signal?.aborted) throw error;
      const problem = `cannot reach the guest of ${this.record.sessionId}: ${messageOf(error)}`;
      throw new DomainError("machine_failed", problem, {}, { cause: error });
    }
  }

  async pause(): Promise<void> {
    await this.#qmp.execute("stop");
  }

  async resume(): Promise<void> {
    await this.#qmp.execute("cont");
  }

  async saveSnapshot(folder: string, options: SaveOptions): Promise<SnapshotManifest> {
    const status = await queryStatus(this.#qmp);
    if (status !== "paused") {
      throw new DomainError("invalid_state", `only a paused VM can be saved; this one is ${status}`);
    }
    return saveSnapshot({
      folder,
      bootId: options.bootId,
      isLast: options.isLast ?? false,
      withMemory: options.memory ?? true,
      source: this.record.folder,
      pid: this.#engine.pid,
      running: this.#running,
      qmp: this.#qmp,
    });
  }

  async privateMemoryBytes(): Promise<number> {
    return readAnonymousBytes(this.#engine.pid);
  }

  setInternetAccess(allowed: boolean): Promise<void> {
    const guard = this.record.processes.find(({ role }) => role === "network");
    return switchNetwork(guard, allowed);
  }

  terminate(): Promise<void> {
    this.#ending ??= this.#terminate().catch((error: unknown) => {
      this.#ending = undefined;
      throw error;
    });
    return this.#ending;
  }

  async release(): Promise<void> {
    this.#watch.abort();
    this.#link?.destroy();
    this.#qmp.close();
  }

  async #terminate(): Promise<void> {
    this.#link?.destroy();
    if (isRunning(this.#engine)) {
      // Its answer does not matter: the process going does.
      this.#qmp.execute("quit", {}, quitGraceMs).catch(() => {});
      if (!(await waitUntilGone(this.#engine, quitGraceMs))) await endProcess(this.#engine, quitGraceMs);
    }
    this.#qmp.close();
    await removeRemains(this.record, networkGraceMs);
    this.#confirmGone?.();
    await this.exited;
    this.#watch.abort();
  }

  /** Resolves when the process is gone, whoever ended it; rejects never. */
  async #watchForExit(childExited: Promise<string> | undefined): Promise<VmExit> {
    const confirmed = new Promise<string>((resolve) => {
      this.#confirmGone = () => resolve("terminated");
    });
    const how = await Promise.race([confirmed, childExited ?? this.#pollForExit()]);
    const logTail = this.#ending ? "" : await readLogTail(join(this.record.folder, engineLogName));
    if (this.#ending) return { reason: "terminated" };
    this.#link?.destroy();
    return { reason: "died", detail: `${this.#guestEnd ?? how}; the engine's log ends: ${logTail}` };
  }

  /** Of a process that is no child of ours: its closing control connection tells at once, a slow poll tells for sure. */
  async #pollForExit(): Promise<string> {
    await Promise.race([this.#qmp.closed, this.#waitUntilGone()]);
    if (!this.#watch.signal.aborted && !(await waitUntilGone(this.#engine, 1000))) await this.#waitUntilGone();
    return "the process is gone";
  }

  /** After `release()` nobody watches any more, and this never resolves. */
  async #waitUntilGone(): Promise<void> {
    while (isRunning(this.#engine)) {
      if (this.#watch.signal.aborted) await new Promise<never>(() => {});
      await delay(watchMs, undefined, { ref: false, signal: this.#watch.signal }).catch(() => {});
    }
  }

  /** QEMU stays, stopped, after its guest ended, so that the console can be read; now it can go. */
  async #endAfterGuest(reason: string): Promise<void> {
    try {
      const console = printable(await readConsole(this.#qmp)).slice(-1000);
      this.#guestEnd = `the guest ended itself (${reason}); its console ends: ${console}`;
      await this.#qmp.execute("quit");
    } catch (error) {
      this.#log.warn({ sessionId: this.record.sessionId, error: messageOf(error) }, "a guest ended and QEMU did not");
      await endProcess(this.#engine, 0);
    }
  }

  /** A guest can make QEMU complain; it must not fill the disk with that. The log is opened for appending. */
  async #boundLog(): Promise<void> {
    const path = join(this.record.folder, engineLogName);
    while (!this.#watch.signal.aborted && !this.#ending) {
      const size = await stat(path).then(
        (found) => found.size,
        () => 0,
      );
      if (size > maxLogBytes) await truncate(path).catch(() => {});
      await delay(10_000, undefined, { ref: false, signal: this.#watch.signal }).catch(() => {});
    }
  }
}
