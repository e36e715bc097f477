/**
 * Gives up, while the disk is too full for new work, what nothing needs any more: snapshots of templates that no name
 * leads to, then guest images, kernels and uploads in the cache, and last what is in quarantine. Never what a live or
 * paused sandbox, a template, a snapshot or a warm VM stands on: who needs what is read anew each time.
 */
import { rm } from "node:fs/promises";
import type { Clock } from "../../clock.ts";
import { isDomainError, messageOf } from "../../errors.ts";
import type { Ledger } from "../../ledger/open.ts";
import { listSnapshots } from "../../ledger/snapshots.ts";
import { listSourcedBuilds } from "../../ledger/template-builds.ts";
import type { Logger } from "../../log.ts";
import type { VmDriver } from "../../machine/driver.ts";
import { readManifest } from "../../machine/snapshot-files.ts";
import type { Metrics } from "../../metrics.ts";
import { assetsFolderOf, cachedNameOf, listCachedAssets, otherCacheUsers } from "../../template/assets/cache.ts";
import { type GuestAssets, readGuestAssets } from "../../template/assets/guest-assets.ts";
import { parseStoredSpec } from "../../template/build/stored-spec.ts";
import type { UploadCache } from "../../template/uploads/cache.ts";
import type { Quarantine } from "../machines/quarantine.ts";
import { type Artifact, planCollection, reachable } from "./artifact-plan.ts";

export interface CollectorDependencies {
  readonly ledger: Ledger;
  readonly driver: VmDriver;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly quarantine: Quarantine;
  readonly uploads: UploadCache;
  /** Removes snapshots of templates that nothing needs: they know their own references. */
  readonly collectTemplates: () => Promise<void>;
  /** What this daemon boots. */
  readonly assets: GuestAssets;
  readonly cacheDir: string;
  readonly stateDir: string;
}

/** Longer than any build, and than any set-up. */
const minAgeMs = 3 * 3_600_000;
/** A disk that stays full is not searched at every request. */
const restMs = 60_000;

export class ArtifactCollector {
  readonly #deps: CollectorDependencies;
  #notBeforeMs = 0;
  #underWay: Promise<void> | undefined;

  constructor(deps: CollectorDependencies) {
    this.#deps = deps;
  }

  /**
   * Gives things up until `isEnough`, or nothing is left to give up. Whoever comes meanwhile waits for the same. Never
   * fails: whoever asked looks at the disk again, and tells of that.
   */
  async collect(isEnough: () => Promise<boolean>): Promise<void> {
    if (this.#deps.clock.monotonicMs() < this.#notBeforeMs) return;
    this.#underWay ??= this.#collectAndRest(isEnough);
    await this.#underWay;
  }

  async #collectAndRest(isEnough: () => Promise<boolean>): Promise<void> {
    const { clock, log } = this.#deps;
    try {
      await this.#collect(isEnough);
    } catch (error) {
      log.error({ err: error }, "what nothing needs could not be collected");
    } finally {
      this.#notBeforeMs = clock.monotonicMs() + restMs;
      this.#underWay = undefined;
    }
  }

  /** @throws what keeps it from telling who needs what */
  async #collect(isEnough: () => Promise<boolean>): Promise<void> {
    const { log, metrics, collectTemplates, clock } = this.#deps;
    await collectTemplates();
    const artifacts = [...(await this.#cached()), ...this.#quarantined()];
    const needed = artifacts.length > 0 ? await this.#needed() : new Set<string>();
    for (const artifact of planCollection(artifacts, needed, clock.nowMs() - minAgeMs)) {
      if (await isEnough()) return;
      try {
        await this.#remove(artifact);
        metrics.artifactsCollected.inc({ kind: artifact.kind });
        log.warn({ ...artifact }, "the disk is nearly full: removed what nothing needs");
      } catch (error) {
        // A damaged snapshot that somebody stands on stays; so does what cannot be removed.
        if (!isDomainError(error, "invalid_state")) log.error({ err: error, ...artifact }, "it cannot be removed");
      }
    }
  }

  /** Nothing while another state folder uses the cache: what its snapshots need is not known here. */
  async #cached(): Promise<Artifact[]> {
    const { cacheDir, stateDir, uploads, log } = this.#deps;
    const assetsFolder = await assetsFolderOf(cacheDir);
    const others = await otherCacheUsers(assetsFolder, stateDir);
    if (others.length > 0) {
      log.warn({ others }, "the cache is shared: nothing of it is removed");
      return [];
    }
    const assets = (await listCachedAssets(assetsFolder)).map((file) => ({ ...file, kind: "asset" as const }));
    const archives = (await uploads.list()).map(async ({ name, atMs }) => {
      return { name: await cachedNameOf(assetsFolder, name), atMs, kind: "upload" as const };
    });
    return [...assets, ...(await Promise.all(archives))];
  }

  #quarantined(): Artifact[] {
    const entries = this.#deps.quarantine.list().filter(({ kind }) => kind !== "machine");
    return entries.map(({ id, atMs }) => ({ name: id, kind: "quarantined", atMs }));
  }

  /** @throws what keeps it from telling who needs what: then nothing may be removed */
  async #needed(): Promise<Set<string>> {
    const { ledger, driver, cacheDir, assets, uploads } = this.#deps;
    const needs = new Map<string, readonly string[]>();
    const snapshots = listSnapshots(ledger, ["making", "ready", "quarantined"]);
    for (const { id, folder, state } of snapshots) {
      const manifest =
        state === "making" ? undefined : await readManifest(folder).catch((error) => this.#giveUp(error));
      needs.set(id, manifest?.dependsOn ?? []);
    }
    const installed = await readGuestAssets(cacheDir);
    const archives = listSourcedBuilds(ledger).flatMap(({ spec }) =>
      parseStoredSpec(spec).steps.flatMap((step) => (step.type === "COPY" ? [uploads.pathOf(step.filesHash)] : [])),
    );
    const images = [assets, installed].flatMap(({ kernel, initramfs, baseDisk }) => [kernel, initramfs, baseDisk]);
    const roots = snapshots.map(({ id }) => id);
    const all = reachable([...roots, ...images, ...archives, ...(await driver.imagesInUse())], needs);
    // What damaged ones stand on stays with them; whether they are needed themselves is the quarantine's to say.
    for (const { id, state } of snapshots) if (state === "quarantined") all.delete(id);
    const assetsFolder = await assetsFolderOf(cacheDir);
    return new Set(await Promise.all([...all].map((name) => cachedNameOf(assetsFolder, name))));
  }

  /** A snapshot without a manifest stands on nothing any more; one that cannot be read may stand on anything. */
  #giveUp(error: unknown): undefined {
    if (isDomainError(error, "not_found") && error.details.damaged === true) return undefined;
    this.#deps.log.error({ reason: messageOf(error) }, "it cannot be told what a snapshot needs: nothing is removed");
    throw error;
  }

  async #remove({ kind, name }: Artifact): Promise<void> {
    if (kind === "quarantined") await this.#deps.quarantine.remove(name);
    else await rm(name, { recursive: true, force: true });
  }
}
