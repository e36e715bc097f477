/** When sandboxes end or pause by themselves: clients move that time, and a loop looks whose is up. */
import { setSandboxEnd } from "../../ledger/sandboxes.ts";
import type { SandboxView } from "../runtime.ts";
import type { EndDependencies, SandboxEnds } from "./end.ts";
import type { SandboxPause } from "./pause.ts";
import type { SandboxRegistry } from "./registry.ts";
import type { SerialQueue } from "./serial-queue.ts";

/** When a sandbox that could not be paused at the end of its time is tried again. */
const pauseRetryMs = 10_000;

export class SandboxDeadlines {
  readonly #deps: EndDependencies;
  readonly #registry: SandboxRegistry;
  readonly #queue: SerialQueue;
  readonly #pause: SandboxPause;
  readonly #ends: SandboxEnds;
  /** Sandboxes whose time is up and that are just being ended or paused. */
  readonly #expiring = new Set<string>();

  constructor(
    deps: EndDependencies,
    registry: SandboxRegistry,
    queue: SerialQueue,
    { pause, ends }: { readonly pause: SandboxPause; readonly ends: SandboxEnds },
  ) {
    this.#deps = deps;
    this.#registry = registry;
    this.#queue = queue;
    this.#pause = pause;
    this.#ends = ends;
  }

  /** See `Runtime.setSandboxTimeout`. */
  async set(id: string, timeoutMs: number): Promise<void> {
    await this.#queue.run(id, async () => {
      this.#registry.getRunning(id);
      this.#move(id, this.#deps.clock.nowMs() + timeoutMs);
      if (timeoutMs === 0) await this.#expire(id);
    });
  }

  /** See `Runtime.refreshSandbox`. */
  async refresh(id: string, durationMs: number): Promise<void> {
    await this.#queue.run(id, async () => void this.extendInQueue(id, durationMs));
  }

  /** @throws not_found, of a paused sandbox too */
  extendInQueue(id: string, timeoutMs: number): SandboxView {
    this.#registry.getRunning(id);
    const view = this.#registry.get(id);
    const endAtMs = this.#deps.clock.nowMs() + timeoutMs;
    return endAtMs <= view.record.endAtMs ? view : (this.#move(id, endAtMs) ?? view);
  }

  /** Ends or pauses every sandbox whose time is up; waits for none, so that a long pause delays no other's end. */
  expireDue(): void {
    const nowMs = this.#deps.clock.nowMs();
    for (const { record, state } of this.#registry.views()) {
      const { id } = record;
      if (state !== "running" || record.endAtMs > nowMs || this.#expiring.has(id)) continue;
      this.#expiring.add(id);
      this.#queue
        .run(id, () => this.#expire(id))
        .catch((error) => this.#deps.log.error({ err: error, sandboxID: id }, "a sandbox could not be ended in time"))
        .finally(() => this.#expiring.delete(id));
    }
  }

  #move(id: string, endAtMs: number): SandboxView | undefined {
    const message = `The sandbox's time is up at ${new Date(endAtMs).toISOString()}`;
    this.#deps.logs.record(id, message, { level: "debug", event: "timeout" });
    return this.#registry.update(setSandboxEnd(this.#deps.ledger, id, endAtMs));
  }

  async #expire(id: string): Promise<void> {
    const { ledger, clock, log } = this.#deps;
    const view = this.#registry.view(id);
    if (view?.state !== "running" || view.record.endAtMs > clock.nowMs()) return;
    if (view.record.lifecycle.onTimeout === "kill") return this.#ends.endInQueue(view.record, "expired");
    try {
      await this.#pause.pauseInQueue(id, "idle", view.record.lifecycle.keepMemory);
    } catch (error) {
      // Its owner wants to find it again: no reason to end it.
      log.error({ err: error, sandboxID: id }, "a sandbox could not be paused in time; trying again later");
      if (this.#registry.view(id)?.state !== "running") return;
      this.#registry.update(setSandboxEnd(ledger, id, clock.nowMs() + pauseRetryMs));
    }
  }
}
