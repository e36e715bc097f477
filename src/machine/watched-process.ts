/**
 * A watched process is the engine process that is one running machine, whether this daemon started it or an earlier
 * one. The base of every engine's VM: it holds the guest link, notices the end of the process, ends it and lets go of
 * it.
 */
import type { Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { DomainError } from "../errors.ts";
import type { MachineRecord, ProcessIdentity } from "../types.ts";
import { readLogTail } from "./detached-process.ts";
import type { VmExit } from "./driver.ts";
import { endProcess, isRunning, waitUntilGone } from "./processes.ts";

/** How often a process that is not our child is looked at, unless its engine says otherwise. */
const defaultWatchMs = 250;
/** How long a process may outlive its control connection before the slow poll takes over. */
const closingMs = 1000;

export interface WatchedProcessParts {
  readonly record: MachineRecord;
  /** How our child ended; absent for an adopted VM. */
  readonly childExited: Promise<string> | undefined;
  /** The connection that controls the process. */
  readonly control: { readonly closed: Promise<unknown>; readonly close: () => void };
  /** The process's log in the VM's folder, and what messages call it. */
  readonly log: { readonly name: string; readonly title: string };
  /** Asks the process to end. The answer does not matter, because the process is watched. */
  readonly askToEnd: () => Promise<unknown>;
  /** Milliseconds between two looks at a process that is not our child. Default 250. */
  readonly watchMs?: number;
  readonly graces: {
    /** From the request to SIGTERM. */
    readonly askedMs: number;
    /** From SIGTERM to SIGKILL. 0: SIGKILL at once. */
    readonly terminatedMs: number;
  };
  /** Removes what is left of the machine once its engine has ended. @throws naming what could not be removed */
  readonly removeRemains: () => Promise<void>;
}

export abstract class WatchedProcess {
  readonly record: MachineRecord;
  readonly exited: Promise<VmExit>;
  protected readonly engine: ProcessIdentity;
  /** Why the machine ended by itself, once it did. */
  protected endedBecause: string | undefined;
  readonly #parts: WatchedProcessParts;
  readonly #watch = new AbortController();
  /** The connection of the guest link, of which there is at most one. */
  #link: Socket | undefined;
  /** The tear-down under way or done; cleared when it failed, so that it can be tried again. */
  #ending: Promise<void> | undefined;
  /** Called by `terminate()` once the process is gone, so that `exited` need not wait to hear of it. */
  #confirmGone: (() => void) | undefined;

  constructor(parts: WatchedProcessParts) {
    const engine = parts.record.processes.find((process) => process.role === "vm");
    if (!engine) throw new DomainError("internal", "a machine record without a VM process");
    this.record = parts.record;
    this.engine = engine;
    this.#parts = parts;
    this.exited = this.#watchForExit();
  }

  async openGuestLink(signal?: AbortSignal): Promise<Socket> {
    signal?.throwIfAborted();
    this.#link?.destroy();
    const stop = AbortSignal.any([this.#watch.signal, ...(signal ? [signal] : [])]);
    const socket = await this.dialGuest(stop);
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
    this.#parts.control.close();
  }

  /** A new connection to the guest's agent. @throws DomainError `machine_failed`; the signal's reason */
  protected abstract dialGuest(signal: AbortSignal): Promise<Socket>;

  get isAlive(): boolean {
    return isRunning(this.engine);
  }

  protected get isEnding(): boolean {
    return this.#ending !== undefined;
  }

  /** Aborted once nobody watches the process any more: after `release()`, and at the end of `terminate()`. */
  protected get watching(): AbortSignal {
    return this.#watch.signal;
  }

  async #terminate(): Promise<void> {
    const { askToEnd, graces, control, removeRemains } = this.#parts;
    this.#link?.destroy();
    if (isRunning(this.engine)) {
      askToEnd().catch(() => {});
      if (!(await waitUntilGone(this.engine, graces.askedMs))) await endProcess(this.engine, graces.terminatedMs);
    }
    control.close();
    await removeRemains();
    this.#confirmGone?.();
    await this.exited;
    this.#watch.abort(new DomainError("machine_failed", "the VM was terminated"));
  }

  /** Resolves when the process is gone, for whatever reason; rejects never. */
  async #watchForExit(): Promise<VmExit> {
    const { childExited, log } = this.#parts;
    const confirmed = new Promise<string>((resolve) => {
      this.#confirmGone = () => resolve("terminated");
    });
    const how = await Promise.race([confirmed, childExited ?? this.#pollForExit()]);
    const logTail = this.#ending ? "" : await readLogTail(join(this.record.folder, log.name));
    if (this.#ending) return { reason: "terminated" };
    this.#link?.destroy();
    return { reason: "died", detail: `${this.endedBecause ?? how}; ${log.title} ends: ${logTail}` };
  }

  /**
   * Of a process that is not our child, the closing control connection tells at once, and a slow poll tells for sure.
   */
  async #pollForExit(): Promise<string> {
    await Promise.race([this.#parts.control.closed, this.#waitUntilGone()]);
    if (!this.watching.aborted && !(await waitUntilGone(this.engine, closingMs))) await this.#waitUntilGone();
    return "the process is gone";
  }

  /** After `release()` nobody watches any more, and this never resolves. */
  async #waitUntilGone(): Promise<void> {
    while (isRunning(this.engine)) {
      if (this.watching.aborted) await new Promise<never>(() => {});
      await delay(this.#parts.watchMs ?? defaultWatchMs, undefined, { ref: false, signal: this.watching }).catch(
        () => {},
      );
    }
  }
}
