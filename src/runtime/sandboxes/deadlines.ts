/**
 * The deadlines of sandboxes: clients move the time at which a sandbox ends or pauses, and a loop looks for due ones. A
 * deadline is a time of the wall clock, and moves with it: a host that slept, or whose clock was set, ends nothing early.
 */
import { type ClockReading, idleTimeBetween, readClock } from "../../clock.ts";
import { setSandboxEnd } from "../../ledger/sandboxes.ts";
import type { SandboxView } from "../contract.ts";
import type { SandboxContext } from "./context.ts";
import type { SandboxEnds } from "./end.ts";
import type { SandboxPauses } from "./pause.ts";

/** When a sandbox that could not be paused at its deadline is tried again. */
const pauseRetryMs = 10_000;

export class SandboxDeadlines {
  readonly #context: SandboxContext;
  readonly #pauses: SandboxPauses;
  readonly #ends: SandboxEnds;
  /** The ids of sandboxes that are just being ended or paused, because they are due. */
  readonly #expiring = new Set<string>();
  /** The clock at the last look. */
  #looked: ClockReading | undefined;

  constructor(
    context: SandboxContext,
    { pauses, ends }: { readonly pauses: SandboxPauses; readonly ends: SandboxEnds },
  ) {
    this.#context = context;
    this.#pauses = pauses;
    this.#ends = ends;
  }

  /**
   * Sets the deadline to now + `timeoutMs`, which may be earlier than before. 0 ends or pauses the sandbox now.
   * @throws DomainError `not_found`, for a paused sandbox too
   */
  async set(id: string, timeoutMs: number): Promise<void> {
    const { deps, registry, queue } = this.#context;
    await queue.runAlways(id, async () => {
      registry.getRunning(id);
      this.#move(id, deps.clock.nowMs() + timeoutMs);
      if (timeoutMs === 0) await this.#expire(id);
    });
  }

  /** Moves the deadline to now + `durationMs`, never back. @throws DomainError `not_found`, for a paused sandbox too */
  async refresh(id: string, durationMs: number): Promise<void> {
    await this.#context.queue.runAlways(id, async () => void this.extendInQueue(id, durationMs));
  }

  /** @throws DomainError `not_found`, for a paused sandbox too */
  extendInQueue(id: string, timeoutMs: number): SandboxView {
    const { deps, registry } = this.#context;
    registry.getRunning(id);
    const view = registry.get(id);
    const endAtMs = deps.clock.nowMs() + timeoutMs;
    return endAtMs <= view.record.endAtMs ? view : (this.#move(id, endAtMs) ?? view);
  }

  /** Ends or pauses every sandbox that is due. Waits for none, so that a long pause does not delay another's end. */
  expireDue(): void {
    const { deps, registry, queue } = this.#context;
    this.#followClock();
    const nowMs = deps.clock.nowMs();
    for (const { record, state } of registry.views()) {
      const { id } = record;
      if (state !== "running" || record.endAtMs > nowMs || this.#expiring.has(id)) continue;
      this.#expiring.add(id);
      queue
        .runAlways(id, () => this.#expire(id))
        .catch((error) => deps.log.error({ err: error, sandboxID: id }, "a sandbox that is due could not be ended"))
        .finally(() => this.#expiring.delete(id));
    }
  }

  /** @throws whatever the ledger throws; the deadlines move at the next look then, and nothing is due before */
  #followClock(): void {
    const { deps, registry } = this.#context;
    const { ledger, clock, log, logs } = deps;
    const now = readClock(clock);
    const before = this.#looked ?? now;
    const idleMs = idleTimeBetween(before, now);
    if (idleMs !== 0) {
      // Of a sandbox that was due before, the deadline was set after the clock.
      const all = [...registry.views()].filter(({ state, record }) => {
        return state === "running" && record.endAtMs > before.wallMs;
      });
      const moved = ledger.write(() => {
        return all.map(({ record: { id, endAtMs } }) => setSandboxEnd(ledger, id, endAtMs + idleMs));
      });
      for (const record of moved) {
        registry.update(record);
        const message = `The host slept or its clock was set. The sandbox's time is up at ${timeOf(record.endAtMs)}`;
        logs.note(record.id, message, { event: "timeout" });
      }
      log.warn(
        { idleMs, sandboxes: moved.length },
        "the host slept or its clock was set, and the deadlines moved with it",
      );
    }
    this.#looked = now;
  }

  #move(id: string, endAtMs: number): SandboxView | undefined {
    const { deps, registry } = this.#context;
    const message = `The sandbox's time is up at ${timeOf(endAtMs)}`;
    deps.logs.note(id, message, { level: "debug", event: "timeout" });
    return registry.update(setSandboxEnd(deps.ledger, id, endAtMs));
  }

  async #expire(id: string): Promise<void> {
    const { deps, registry } = this.#context;
    const { ledger, clock, log } = deps;
    const view = registry.view(id);
    if (view?.state !== "running" || view.record.endAtMs > clock.nowMs()) return;
    const { onTimeout, keepMemory } = view.record.lifecycle;
    if (onTimeout === "kill") return this.#ends.endInQueue(view.record, "expired");
    try {
      await this.#pauses.pauseInQueue(id, "idle", keepMemory);
    } catch (error) {
      // The client wants to find the sandbox again, so that a failed pause does not end it.
      log.error({ err: error, sandboxID: id }, "a sandbox that is due could not be paused; trying again later");
      if (registry.view(id)?.state !== "running") return;
      registry.update(setSandboxEnd(ledger, id, clock.nowMs() + pauseRetryMs));
    }
  }
}

const timeOf = (atMs: number) => new Date(atMs).toISOString();
