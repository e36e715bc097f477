/**
 * The warm pool: machines restored ahead of demand, with their link open, that have run a command, so that a create
 * only has to give one its identity. The ledger has an entry and a reservation for each; this class has the live ends.
 * This room makes things ahead of demand, in the background, and may call capacity and machines.
 */
import { DomainError, messageOf } from "../../errors.ts";
import { type CapacityBudgets, release, reserve } from "../../ledger/capacity.ts";
import type { Ledger } from "../../ledger/open.ts";
import type { ResolvedTemplate } from "../../ledger/templates.ts";
import {
  checkOutWarmEntry,
  discardWarmEntry,
  insertWarmEntry,
  markWarmEntryReady,
  setWarmEntryMachine,
  type WarmEntry,
} from "../../ledger/warm-entries.ts";
import type { Metrics } from "../../metrics.ts";
import type { MachineShape } from "../../types.ts";
import type { EvictionSource } from "../capacity/admission.ts";
import type { Evictable } from "../capacity/admission-plan.ts";
import type { DiskPressureGuard } from "../capacity/disk-guard.ts";
import type { RestoreDependencies } from "../machines/restore.ts";
import type { UnfinishedWork } from "../machines/unfinished-work.ts";
import { Demand } from "./demand.ts";
import { Maker } from "./maker.ts";
import {
  type DiscardReason,
  isSameKey,
  type PoolTarget,
  planPool,
  poolTargets,
  type WarmPoolSettings,
  warmKeyOf,
} from "./plan.ts";
import { rehearse, restoreWarmMachine, type WarmMachine, warmingDeadlineMs } from "./warm-machine.ts";

export interface WarmPoolDependencies extends RestoreDependencies {
  readonly ledger: Ledger;
  readonly metrics: Metrics;
  readonly disk: DiskPressureGuard;
  readonly unfinishedWork: UnfinishedWork;
  readonly budgets: CapacityBudgets;
}

type Member = { readonly entry: WarmEntry; readonly shape: MachineShape } & (
  | { readonly at: "warming"; readonly giveUp: AbortController }
  | { readonly at: "ready"; readonly machine: WarmMachine }
);

const demandWindowMs = 5 * 60_000;
const maxAgeMs = 60 * 60_000;
/** After a create the processors belong to its first command for a moment. */
const quietMs = 100;
const refilling = {
  work: "keep a sandbox warm",
  firstRetryMs: 1_000,
  longestRetryMs: 60_000,
  expected: ["disk_pressure"],
  expectedMessage: "the warm pool is not refilled",
} as const;

export class WarmPool implements EvictionSource {
  readonly #deps: WarmPoolDependencies;
  readonly #settings: WarmPoolSettings;
  readonly #demand: Demand;
  readonly #maker: Maker;
  /** By entry id, oldest first. */
  readonly #members = new Map<string, Member>();
  /** The shapes of discarded members whose machines are not gone yet, by entry id. */
  readonly #leaving = new Map<string, MachineShape>();
  /** How many creates and removals of snapshots are under way. */
  #holds = 0;
  /** The last refill that was started. */
  #refilling: Promise<void> = Promise.resolve();

  constructor(deps: WarmPoolDependencies, { min, max }: WarmPoolSettings) {
    this.#deps = deps;
    this.#settings = { min, max: max === 0 ? 0 : Math.max(min, max) };
    this.#demand = new Demand(demandWindowMs, this.#settings.max);
    this.#maker = new Maker(deps, refilling);
  }

  get enabled(): boolean {
    return this.#settings.max > 0;
  }

  /** Counts a create as under way: nothing is refilled until the returned function was called. */
  beginCreate(templateId: string): () => void {
    const { clock } = this.#deps;
    if (this.enabled) this.#demand.note(templateId, clock.monotonicMs());
    this.#holds += 1;
    return () => {
      this.#holds -= 1;
      this.#maker.rest(quietMs);
    };
  }

  /** The oldest machine that fits a create of this build. It stays in the pool until {@link checkOut}. */
  oldest(resolved: ResolvedTemplate): WarmMachine | undefined {
    const key = warmKeyOf(this.#deps.driver.info, resolved);
    for (const member of this.#members.values()) {
      if (member.at === "ready" && isSameKey(member.entry, key)) return member.machine;
    }
    return undefined;
  }

  /**
   * Gives a sandbox a machine that was the {@link oldest} in this turn of the event loop, with its reservation. The
   * pool has nothing to do with the machine any more.
   * @param insert writes the sandbox down; when that fails, the machine stays in the pool
   */
  checkOut<T>({ entry }: WarmMachine, sandboxId: string, insert: () => T): T {
    const { ledger } = this.#deps;
    const inserted = ledger.write(() => {
      checkOutWarmEntry(ledger, entry.id, sandboxId);
      return insert();
    });
    this.#members.delete(entry.id);
    return inserted;
  }

  /** Takes over a machine that an earlier daemon made. */
  adopt(machine: WarmMachine, shape: MachineShape): void {
    this.#addReady(machine, shape);
  }

  /**
   * Removes a template's snapshot while no machine is made from it: a refill under way is given up first, and none
   * begins.
   * @param remove must remove the snapshot before it waits for anything
   */
  async withdraw<T>(templateId: string, remove: () => T): Promise<T> {
    this.#holds += 1;
    try {
      const [half] = [...this.#members.values()].filter((each) => each.at === "warming");
      if (half?.entry.templateId === templateId) {
        this.#discard(half.entry.id, "stale");
        // The refill itself reports its failure.
        await Promise.allSettled([this.#refilling]);
      }
      return remove();
    } finally {
      this.#holds -= 1;
    }
  }

  evictable(): Evictable[] {
    return [...this.#members].map(([id, { shape }]) => ({ id, shape }));
  }

  leaving(): MachineShape[] {
    return [...this.#leaving.values()];
  }

  evict(ids: readonly string[]): void {
    for (const id of ids) this.#discard(id, "evicted");
  }

  /** One round: discards machines that are of no use any more, then makes at most one. */
  async maintain(signal: AbortSignal): Promise<void> {
    const members = [...this.#members.values()].map(({ entry }) => ({ ...entry, key: entry }));
    const { discard, refill } = planPool(this.#targets(), members, this.#deps.clock.nowMs(), maxAgeMs);
    for (const { id, reason } of discard) this.#discard(id, reason);
    if (!refill) return;
    const make = () => {
      this.#refilling = this.#refill(refill, signal);
      return this.#refilling;
    };
    await this.#maker.tryMake({ shape: refill.shape, isQuiet: () => this.isQuiet, make }, signal);
  }

  /** Ends every warm machine in the background, because a stopping daemon keeps only what clients asked for. */
  close(): void {
    for (const id of [...this.#members.keys()]) this.#discard(id, "stopping");
  }

  /** How many machines are in each state. */
  depth(): { readonly ready: number; readonly warming: number; readonly leaving: number } {
    const states = [...this.#members.values()].map(({ at }) => at);
    const count = (state: Member["at"]) => states.filter((at) => at === state).length;
    return { ready: count("ready"), warming: count("warming"), leaving: this.#leaving.size };
  }

  #targets(): PoolTarget[] {
    if (!this.enabled) return [];
    const { ledger, clock, driver } = this.#deps;
    const members = [...this.#members.values()].map(({ entry }) => entry.templateId);
    const demand = this.#demand.counts(clock.monotonicMs());
    return poolTargets(ledger, driver.info, this.#settings, { demand, members });
  }

  /** Whether no create is under way, nor was one a moment ago. */
  get isQuiet(): boolean {
    return this.#holds === 0 && this.#maker.isRested;
  }

  /**
   * Reserves, restores, warms.
   * @throws what the restore throws, unless the refill was given up; nothing is left behind
   */
  async #refill(target: PoolTarget, signal: AbortSignal): Promise<void> {
    const { ledger, metrics, clock, log, reach } = this.#deps;
    const startedMs = clock.monotonicMs();
    const { shape } = target;
    const entry = this.#reserve(target);
    reach("refill.reserved");
    const giveUp = new AbortController();
    this.#members.set(entry.id, { at: "warming", entry, shape, giveUp });
    const stop = AbortSignal.any([signal, giveUp.signal, AbortSignal.timeout(warmingDeadlineMs)]);
    const abandon = (destroy: () => Promise<void>) => {
      this.#members.delete(entry.id);
      this.#letGo(entry, shape, destroy);
    };
    try {
      await using machine = await restoreWarmMachine(this.#deps, target, {
        writeDown: (record) => setWarmEntryMachine(ledger, entry.id, record),
        abandon,
        signal: stop,
      });
      const { vm, agent } = machine;
      await rehearse(this.#deps, agent, entry.templateId, stop);
      reach("refill.warmed");
      giveUp.signal.throwIfAborted();
      markWarmEntryReady(ledger, entry.id, vm.record);
      reach("refill.ready");
      this.#addReady({ entry, vm, agent }, shape);
      machine.take();
      const seconds = (clock.monotonicMs() - startedMs) / 1000;
      metrics.warmPoolRefillSeconds.observe(seconds);
      log.info({ warmEntryID: entry.id, templateID: entry.templateId, seconds }, "the warm pool was refilled");
    } catch (error) {
      if (!signal.aborted && !giveUp.signal.aborted) throw error;
    }
  }

  #reserve({ key, snapshotId, shape }: PoolTarget): WarmEntry {
    const { ledger, budgets } = this.#deps;
    return ledger.write(() => {
      const { id: reservationId } = reserve(ledger, { kind: "warm", shape, budgets });
      return insertWarmEntry(ledger, { ...key, snapshotId, reservationId });
    });
  }

  #addReady(machine: WarmMachine, shape: MachineShape): void {
    const { entry, vm, agent } = machine;
    this.#members.set(entry.id, { at: "ready", entry, shape, machine });
    const onDeath = (detail: string) => {
      if (!this.#members.has(entry.id)) return;
      this.#deps.log.warn({ warmEntryID: entry.id, detail }, "a warm machine died");
      this.#discard(entry.id, "died");
    };
    void vm.exited.then((exit) => onDeath(exit.reason === "died" ? exit.detail : exit.reason));
    void agent.closed.then((reason) => onDeath(messageOf(reason)));
  }

  /** Takes a machine out of the pool at once; its capacity is released when it is gone. */
  #discard(id: string, reason: DiscardReason | "evicted" | "died" | "stopping"): void {
    const member = this.#members.get(id);
    if (!member) return;
    const { metrics, log } = this.#deps;
    const { entry, shape } = member;
    this.#members.delete(id);
    metrics.warmPoolDiscards.inc({ reason });
    log.info({ warmEntryID: id, reason }, "a warm machine was discarded");
    if (member.at === "warming") {
      this.#leaving.set(id, shape);
      member.giveUp.abort(new DomainError("cancelled", `the warm machine is not wanted any more: ${reason}`));
      return;
    }
    const { vm, agent } = member.machine;
    agent.close();
    this.#letGo(entry, shape, () => vm.terminate());
  }

  /** Never throws: the news of a machine's death has no caller that could handle a ledger that cannot be written. */
  #letGo({ id, reservationId }: WarmEntry, shape: MachineShape, destroy: () => Promise<void>): void {
    this.#leaving.set(id, shape);
    const { ledger, unfinishedWork } = this.#deps;
    unfinishedWork.finish({ warmEntryID: id }, async () => {
      discardWarmEntry(ledger, id);
      await destroy();
      release(ledger, reservationId);
      this.#leaving.delete(id);
    });
  }
}
