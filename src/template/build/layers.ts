/**
 * The cache of build steps. After a step that may have changed the disk, the machine is saved; a later build with the
 * same steps before it goes on from there. The keys are chained over everything that decides what a step does.
 */
import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { type BuildLayer, dropLayer, listLayers, putLayer, useLayer } from "../../ledger/build-layers.ts";
import type { Ledger } from "../../ledger/open.ts";
import { markSnapshotReady, registerSnapshot, type SnapshotFacts } from "../../ledger/snapshots.ts";
import type { Logger } from "../../log.ts";
import type { EngineInfo } from "../../machine/driver.ts";
import { readSnapshot, type SnapshotPlace } from "../../machine/snapshot-files.ts";
import type { Metrics } from "../../metrics.ts";
import type { GuestAssets } from "../assets/guest-assets.ts";
import { fingerprintOf, type GuestTrust } from "../trust/host-trust.ts";
import type { BuildGround } from "./ground.ts";
import type { BuildContext } from "./guest-command.ts";
import type { BuildStep } from "./spec.ts";

/** To be raised when what a build does to a machine before its steps, or in one of them, changes. */
const recipe = 2;

export interface LayerDependencies {
  readonly ledger: Ledger;
  readonly log: Logger;
  readonly metrics: Pick<Metrics, "buildCacheBytes">;
  readonly engine: EngineInfo;
  readonly assets: GuestAssets;
  readonly trust: GuestTrust;
  readonly budgetBytes: number;
}

/** A layer of a build: after which of its steps it was saved; 0: before the first. */
export interface FoundLayer {
  readonly after: number;
  readonly layer: BuildLayer;
}

export class BuildLayers {
  readonly #deps: LayerDependencies;

  constructor(deps: LayerDependencies) {
    this.#deps = deps;
  }

  /** Whether machines of this engine can be saved and restored many times, which the cache stands on. */
  get isPossible(): boolean {
    const { memorySnapshot, fanOut } = this.#deps.engine.abilities;
    return this.#deps.budgetBytes > 0 && memorySnapshot.supported && fanOut.supported;
  }

  /** The keys of a build: before its first step, and after each. */
  keysOf(
    { parentId, defaults, start }: Pick<BuildGround, "parentId" | "defaults" | "start">,
    steps: readonly BuildStep[],
  ): string[] {
    const { engine, assets, trust } = this.#deps;
    const { engine: name, version, acceleration, cpuClass } = engine;
    const machine = [name, version, acceleration, cpuClass, assets.kernel, assets.initramfs, assets.agent];
    const first = digest(JSON.stringify([recipe, machine, parentId, start.shape, defaults, fingerprintOf(trust)]));
    const keys = [first];
    for (const step of steps) keys.push(digest((keys.at(-1) ?? "") + JSON.stringify(step)));
    return keys;
  }

  /**
   * The layer that saves a build the most steps.
   * @param forcedFrom the index of the first step that is to run whatever there is; below 0: the parent, too
   */
  async find(keys: readonly string[], forcedFrom: number): Promise<FoundLayer | undefined> {
    if (!this.isPossible) return undefined;
    for (let after = Math.min(keys.length - 1, forcedFrom); after >= 0; after--) {
      const layer = useLayer(this.#deps.ledger, keys[after] ?? "");
      if (layer && (await this.#isWhole(layer))) return { after, layer };
    }
    return undefined;
  }

  /** Names a layer's snapshot before it is made. */
  register(key: string, { id, folder }: SnapshotPlace): void {
    const { ledger } = this.#deps;
    registerSnapshot(ledger, { id, kind: "template", logicalId: `layer:${key.slice(0, 16)}`, folder, reason: null });
  }

  /** Adds a layer whose snapshot is whole. @returns the layer, which a build may be restored from */
  async publish(key: string, place: SnapshotPlace, facts: SnapshotFacts, context: BuildContext): Promise<void> {
    const { ledger } = this.#deps;
    const sizeBytes = await sizeOf(place.folder);
    ledger.writeDurably(() => {
      markSnapshotReady(ledger, place.id, facts);
      putLayer(ledger, { key, snapshotId: place.id, context, sizeBytes });
    });
    this.#updateGauge();
  }

  /** Forgets the layers that were used longest ago until the rest fits. Their snapshots are to be collected then. */
  keepBudget(): void {
    this.#dropDownTo(this.#deps.budgetBytes);
  }

  /** Forgets every layer. @returns how many there were, and their size */
  prune(): { layers: number; sizeBytes: number } {
    const all = listLayers(this.#deps.ledger);
    this.#dropDownTo(0);
    return { layers: all.length, sizeBytes: all.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) };
  }

  #dropDownTo(budgetBytes: number): void {
    const { ledger } = this.#deps;
    const layers = listLayers(ledger);
    let totalBytes = layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    for (const { key, sizeBytes } of layers) {
      if (totalBytes <= budgetBytes) break;
      dropLayer(ledger, key);
      totalBytes -= sizeBytes;
    }
    this.#updateGauge();
  }

  #updateGauge(): void {
    const { ledger, metrics } = this.#deps;
    metrics.buildCacheBytes.set(listLayers(ledger).reduce((sum, { sizeBytes }) => sum + sizeBytes, 0));
  }

  async #isWhole({ key, folder, snapshotId }: BuildLayer): Promise<boolean> {
    const { ledger, log } = this.#deps;
    try {
      await readSnapshot(folder);
      return true;
    } catch (error) {
      log.warn({ err: error, snapshotID: snapshotId }, "a layer of a build cannot be read, so its steps run again");
      dropLayer(ledger, key);
      return false;
    }
  }
}

/** Whether the machine after this step is worth a snapshot: the others are done again in a moment. */
export const isWorthSaving = ({ type }: BuildStep): boolean => type === "RUN" || type === "COPY";

const digest = (text: string) => createHash("sha256").update(text).digest("hex");

/** The blocks of a snapshot's files; those of a file that several snapshots have count in parts. */
async function sizeOf(folder: string): Promise<number> {
  const files = await Promise.all((await readdir(folder)).map((name) => stat(join(folder, name))));
  return Math.round(files.reduce((sum, { blocks, nlink }) => sum + (blocks * 512) / nlink, 0));
}
