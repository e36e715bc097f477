/**
 * The shelf: prepared individual snapshots, each of a machine of its own, on hosts where one snapshot starts one
 * machine only. It has a few for `base`, and for built templates that were asked for within a day. One is made at a
 * time, while nothing else is under way, with spare capacity that is given back as soon as a create wants it.
 */
import { DomainError } from "../../errors.ts";
import { type CapacityBudgets, release, reserve } from "../../ledger/capacity.ts";
import { clearFromShelf, listShelf, putOnShelf } from "../../ledger/shelf.ts";
import { registerSnapshot } from "../../ledger/snapshots.ts";
import { findCurrentBuild, listTemplates, type ResolvedTemplate } from "../../ledger/templates.ts";
import { newSnapshotPlace } from "../../machine/snapshot-files.ts";
import { baseAlias } from "../../template/base/template.ts";
import {
  findPreparation,
  type IndividualSnapshotDependencies,
  makeIndividualSnapshot,
  type Preparation,
} from "../../template/individual-snapshot.ts";
import type { MachineShape } from "../../types.ts";
import type { EvictionSource } from "../capacity/admission.ts";
import type { Evictable } from "../capacity/admission-plan.ts";
import type { DiskPressureGuard } from "../capacity/disk-guard.ts";
import { discardContinuation } from "../machines/capture.ts";
import type { UnfinishedWork } from "../machines/unfinished-work.ts";
import { Maker } from "./maker.ts";
import type { WarmPool } from "./warm-pool.ts";

export interface ShelfDependencies extends IndividualSnapshotDependencies {
  readonly budgets: CapacityBudgets;
  readonly disk: DiskPressureGuard;
  readonly unfinishedWork: UnfinishedWork;
  readonly warmPool: Pick<WarmPool, "isQuiet">;
  readonly snapshotsFolder: string;
}

const snapshotsPerTemplate = 2;
/** A built template that no create asked for in this time has no shelf. */
const wantedMs = 24 * 3_600_000;
const making = {
  work: "prepare a snapshot ahead",
  firstRetryMs: 5_000,
  longestRetryMs: 10 * 60_000,
  expected: ["disk_pressure", "not_ready", "cancelled"],
  expectedMessage: "no snapshot is made for the shelf now",
} as const;

/** A template that has a shelf, and how its snapshots are prepared. */
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
  readonly #maker: Maker;
  /** The snapshot that is being made, until its machine is gone. */
  #job: ShelfJob | undefined;

  constructor(deps: ShelfDependencies) {
    this.#deps = deps;
    this.#maker = new Maker(deps, making);
  }

  evictable(): Evictable[] {
    return this.#job && !this.#job.giveUp.signal.aborted ? [this.#job] : [];
  }

  leaving(): MachineShape[] {
    return this.#job?.giveUp.signal.aborted ? [this.#job.shape] : [];
  }

  evict(ids: readonly string[]): void {
    if (!this.#job || !ids.includes(this.#job.id)) return;
    this.#job.giveUp.abort(new DomainError("cancelled", "the capacity of a shelf snapshot is wanted for a sandbox"));
  }

  /** One round: removes snapshots that are of no use any more, then makes at most one. */
  async maintain(signal: AbortSignal): Promise<void> {
    const lacking = this.#clear(this.#targets());
    if (!lacking) return;
    const { shape } = lacking.resolved.template;
    const isQuiet = () => !this.#job && this.#deps.warmPool.isQuiet;
    await this.#maker.tryMake({ shape, isQuiet, make: () => this.#make(lacking, signal) }, signal);
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

  /** Removes snapshots that are of no use. @returns the target that lacks most snapshots, if one does */
  #clear(targets: readonly ShelfTarget[]): ShelfTarget | undefined {
    const { ledger, unfinishedWork } = this.#deps;
    const kept = new Map(targets.map(({ resolved }) => [resolved.buildId, 0]));
    for (const { snapshot, buildId } of listShelf(ledger)) {
      const n = kept.get(buildId);
      if (n !== undefined && n < snapshotsPerTemplate && snapshot.state === "ready") {
        kept.set(buildId, n + 1);
        continue;
      }
      clearFromShelf(ledger, snapshot.id);
      // A damaged snapshot is in quarantine, and stays there.
      if (snapshot.state === "ready") {
        unfinishedWork.finish({ snapshotID: snapshot.id }, () => discardContinuation(ledger, snapshot));
      }
    }
    const count = ({ resolved }: ShelfTarget) => kept.get(resolved.buildId) ?? 0;
    const [least] = [...targets].sort((one, other) => count(one) - count(other));
    return least && count(least) < snapshotsPerTemplate ? least : undefined;
  }

  /** @throws what `makeIndividualSnapshot` throws; nothing is left behind */
  async #make({ resolved, preparation }: ShelfTarget, signal: AbortSignal): Promise<void> {
    const { ledger, budgets, log, unfinishedWork, snapshotsFolder } = this.#deps;
    const { buildId, template } = resolved;
    const { shape } = template;
    const place = newSnapshotPlace(snapshotsFolder);
    const [reservation, snapshot] = ledger.write(() => [
      reserve(ledger, { kind: "warm", shape, budgets }),
      registerSnapshot(ledger, { ...place, kind: "continuation", logicalId: buildId, reason: null }),
    ]);
    const job = { id: reservation.id, shape, giveUp: new AbortController() };
    this.#job = job;
    const end = (destroy: () => Promise<void>) =>
      unfinishedWork.finish({ reservationID: reservation.id }, async () => {
        await destroy();
        release(ledger, reservation.id);
        this.#job = undefined;
      });
    try {
      const stop = AbortSignal.any([signal, job.giveUp.signal]);
      const { folder } = snapshot;
      const facts = await makeIndividualSnapshot(this.#deps, { resolved, preparation, folder, end }, stop);
      putOnShelf(ledger, snapshot.id, buildId, facts);
      log.info({ snapshotID: snapshot.id, templateID: template.id }, "a snapshot was put on the shelf");
    } catch (error) {
      unfinishedWork.finish({ snapshotID: snapshot.id }, () => discardContinuation(ledger, snapshot));
      throw job.giveUp.signal.aborted ? job.giveUp.signal.reason : error;
    }
  }
}

/** Two sources as one, with the machines of the first before those of the second. */
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
