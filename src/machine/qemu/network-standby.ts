/**
 * Keeps one network started ahead, so that a restore does not wait the 20 ms that starting one takes. A standby
 * network ends by itself when the daemon does: nobody else holds the other end of its socket.
 */
import { mkdir, stat, truncate } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { messageOf } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import { isRunning } from "../processes.ts";
import { type Network, type NetworkTools, startNetwork } from "./network.ts";

/** Refilling waits until the restore that took the last one is over: it would compete for the processor. */
const refillAfterMs = 300;
const maxLogBytes = 1 << 20;

export class NetworkStandby {
  readonly #tools: NetworkTools;
  readonly #logPath: string;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  /** The one that waits, if any. */
  #ready: Network | undefined;
  /** Refilling under way. */
  #refill: Promise<void> | undefined;

  constructor(tools: NetworkTools, logPath: string, log: Logger) {
    this.#tools = tools;
    this.#logPath = logPath;
    this.#log = log;
  }

  /** A network for one VM: the one that waits, or a new one. */
  async take(): Promise<Network> {
    const ready = this.#ready;
    this.#ready = undefined;
    this.#refill ??= this.#refillLater();
    if (ready && isRunning(ready.guard)) return ready;
    await ready?.close();
    return this.#start();
  }

  /** Ends the one that waits; those that were taken belong to their VMs. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#refill;
    await this.#ready?.close();
    this.#ready = undefined;
  }

  async #start(): Promise<Network> {
    await this.#boundLog();
    return startNetwork(this.#tools, this.#logPath);
  }

  async #boundLog(): Promise<void> {
    await mkdir(dirname(this.#logPath), { recursive: true, mode: 0o700 });
    const size = await stat(this.#logPath).then(
      (found) => found.size,
      () => 0,
    );
    if (size > maxLogBytes) await truncate(this.#logPath);
  }

  async #refillLater(): Promise<void> {
    try {
      await delay(refillAfterMs, undefined, { ref: false, signal: this.#stop.signal });
      this.#ready = await this.#start();
    } catch (error) {
      if (!this.#stop.signal.aborted) this.#log.warn({ error: messageOf(error) }, "no network could be started ahead");
    } finally {
      this.#refill = undefined;
    }
  }
}
