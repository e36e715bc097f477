/**
 * Keeps the shelf full where one save cannot be several machines: for `base`, and for what was built and asked for within
 * a day, a few saves, each of a machine of its own. One is made at a time, while nothing else is under way, above the
 * disk's floor, with spare capacity that is given back as soon as a create wants it.
 */
import { DomainError, isDomainError } from "../../errors.ts";
import { type CapacityBudgets, findShortage, release, reserve, usage } from "../../ledger/capacity.ts";
import { clearFromShelf, listShelf, putOnShelf } from "../../ledger/shelf.ts";
import { registerSnapshot } from "../../ledger/snapshots.ts";
import { findCurrentBuild, listTemplates, type ResolvedTemplate } from "../../ledger/templates.ts";
import { newSnapshotPlace } from "../../machine/snapshot-files.ts";
import { baseAlias } from "../../template/build-machine.ts";
import {
  findPreparation,
  type IndividualSaveDependencies,
  makeIndividualSave,
  type Preparation,
} from "../../template/individual-save.ts";
import type { MachineShape } from "../../types.ts";
import type { EvictionSource } from "../capacity/admission.ts";
import type { Evictable } from "../capacity/admission-plan.ts";
import type { DiskPressureGuard } from "../capacity/disk-guard.ts";
import { discardContinuation } from "../machines/capture.ts";
import type { SessionTerminator } from "../machines/unfinished-work.ts";
import type { WarmPool } from "./warm-pool.ts";

export interface ShelfDependencies extends IndividualSaveDependencies {
  readonly budgets: CapacityBudgets;
  readonly disk: DiskPressureGuard;
  readonly terminator: SessionTerminator;
  readonly warmPool: Pick<WarmPool, "isQuiet">;
  readonly snapshotsFolder: string;
}

const savesPerTemplate = 2;
/** What nobody asked for in this time has no shelf. */
const wantedMs = 24 * 3_600_000;
const firstRetryMs = 5_000;
const longestRetryMs = 10 * 60_000;

/** A template that has a shelf, and how its saves are prepared. */
interface ShelfTarget {
  readonly resolved: ResolvedTemplate;
  readonly preparation: Preparation;
}

interface ShelfJob {
  readonly id: string;
  readonly shape: MachineShape;
  readonly giveUp: AbortController;
}

export class SnapshotShelf implements EvictionSource {
  readonly #deps: ShelfDependencies;
  /** Until its machine is gone. */
  #making: ShelfJob | undefined;
  /** Monotonic time before which none is made. */
  #restUntilMs = 0;
  #retryMs = firstRetryMs;

  constructor(deps: ShelfDependencies) {
    this.#deps = deps;
  }

  evictable(): Evictable[] {
    return this.#making && !this.#making.giveUp.signal.aborted ? [this.#making] : [];
  }

  leaving(): MachineShape[] {
    return this.#making?.giveUp.signal.aborted ? [this.#making.shape] : [];
  }

  evict(ids: readonly string[]): void {
    if (!this.#making || !ids.includes(this.#making.id)) return;
    this.#making.giveUp.abort(new DomainError("cancelled", "its capacity is wanted for a sandbox"));
  }

  /** One round: lets go of saves of no use any more, then makes at most one. */
  async maintain(signal: AbortSignal): Promise<void> {
    const { clock, disk, log } = this.#deps;
    const targets = this.#targets();
    const lacking = this.#clear(targets);
    if (!lacking || !this.#mayMake(lacking)) return;
    try {
      await disk.admit("prepare a save ahead", "refill");
      // Somebody may have come meanwhile.
      if (!this.#mayMake(lacking)) return;
      await this.#make(lacking, signal);
      this.#retryMs = firstRetryMs;
    } catch (error) {
      if (signal.aborted) return;
      this.#restUntilMs = clock.monotonicMs() + this.#retryMs;
      this.#retryMs = Math.min(this.#retryMs * 2, longestRetryMs);
      const isExpected = (["disk_pressure", "not_ready", "cancelled"] as const).some((code) =>
        isDomainError(error, code),
      );
      if (!isExpected) throw error;
      log.info({ reason: (error as Error).message }, "no save is made ahead now");
    }
  }

  #targets(): ShelfTarget[] {
    const { ledger, driver, clock } = this.#deps;
    if (driver.info.abilities.fanOut.supported) return [];
    const since = clock.nowMs() - wantedMs;
    return listTemplates(ledger).flatMap((template) => {
      if (!template.aliases.includes(baseAlias) && (template.lastSpawnedAtMs ?? 0) < since) return [];
      const resolved = findCurrentBuild(ledger, template.id);
      if (resolved?.snapshot.state !== "ready") return [];
      const preparation = findPreparation(ledger, resolved);
      return preparation ? [{ resolved, preparation }] : [];
    });
  }

  /** Lets go of what is of no use. @returns the target that lacks most saves, if one does */
  #clear(targets: readonly ShelfTarget[]): ShelfTarget | undefined {
    const { ledger, terminator } = this.#deps;
    const kept = new Map(targets.map(({ resolved }) => [resolved.buildId, 0]));
    for (const { snapshot, buildId } of listShelf(ledger)) {
      const n = kept.get(buildId);
      if (n !== undefined && n < savesPerTemplate && snapshot.state === "ready") {
        kept.set(buildId, n + 1);
        continue;
      }
      clearFromShelf(ledger, snapshot.id);
      // One that is damaged is in quarantine, and stays there.
      if (snapshot.state === "ready") {
        terminator.finish({ snapshotID: snapshot.id }, () => discardContinuation(ledger, snapshot));
      }
    }
    const count = ({ resolved }: ShelfTarget) => kept.get(resolved.buildId) ?? 0;
    const [least] = [...targets].sort((one, other) => count(one) - count(other));
    return least && count(least) < savesPerTemplate ? least : undefined;
  }

  #mayMake({ resolved }: ShelfTarget): boolean {
    const { ledger, budgets, clock, warmPool } = this.#deps;
    if (this.#making || !warmPool.isQuiet || clock.monotonicMs() < this.#restUntilMs) return false;
    return findShortage(usage(ledger), resolved.template.shape, budgets) === undefined;
  }

  /** @throws what making it throws, with nothing left behind */
  async #make({ resolved, preparation }: ShelfTarget, signal: AbortSignal): Promise<void> {
    const { ledger, budgets, log, terminator, snapshotsFolder } = this.#deps;
    const { buildId, template } = resolved;
    const { shape } = template;
    const place = newSnapshotPlace(snapshotsFolder);
    const [reservation, snapshot] = ledger.write(() => [
      reserve(ledger, { kind: "warm", shape, budgets }),
      registerSnapshot(ledger, { ...place, kind: "continuation", logicalId: buildId, reason: null }),
    ]);
    const making = { id: reservation.id, shape, giveUp: new AbortController() };
    this.#making = making;
    const end = (destroy: () => Promise<void>) =>
      terminator.finish({ reservationID: reservation.id }, async () => {
        await destroy();
        release(ledger, reservation.id);
        this.#making = undefined;
      });
    try {
      const stop = AbortSignal.any([signal, making.giveUp.signal]);
      const { folder } = snapshot;
      const facts = await makeIndividualSave(this.#deps, { resolved, preparation, folder, end }, stop);
      putOnShelf(ledger, snapshot.id, buildId, facts);
      log.info({ snapshotID: snapshot.id, templateID: template.id }, "a save was made ahead");
    } catch (error) {
      terminator.finish({ snapshotID: snapshot.id }, () => discardContinuation(ledger, snapshot));
      throw making.giveUp.signal.aborted ? making.giveUp.signal.reason : error;
    }
  }
}

/** Both, the first one's machines first. */
export function joinSources(first: EvictionSource, second: EvictionSource): EvictionSource {
  return {
    evictable: () => [...first.evictable(), ...second.evictable()],
    leaving: () => [...first.leaving(), ...second.leaving()],
    evict: (ids) => {
      first.evict(ids);
      second.evict(ids);
    },
  };
}
