/**
 * The collector of artifacts: while the disk is too full for new work it removes files that nothing needs any more.
 * First go snapshots of templates that no name leads to, then engines that no snapshot and no machine names, guest
 * images, kernels and uploads in the cache, and last the content of the quarantine. A file that a sandbox, template, snapshot or warm machine needs stays; the needs are
 * read anew each time.
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
import { findCodeInterpreterDisk } from "../../template/assets/code-interpreter-disk.ts";
import { type GuestAssets, readGuestAssets } from "../../template/assets/guest-assets.ts";
import { copiedHashes } from "../../template/build/stored-spec.ts";
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
  /** Removes snapshots of templates that nothing needs; the template layer knows its references. */
  readonly collectTemplates: () => Promise<void>;
  /** The assets that this daemon boots. */
  readonly assets: GuestAssets;
  readonly cacheDir: string;
  readonly stateDir: string;
}

/** Longer than any build or set-up, whose files are not written down yet. */
const minAgeMs = 3 * 3_600_000;
/** Time between two searches, so that a disk that stays full is not searched at every request. */
const restMs = 60_000;

export class ArtifactCollector {
  readonly #deps: CollectorDependencies;
  #notBeforeMs = 0;
  #underWay: Promise<void> | undefined;

  constructor(deps: CollectorDependencies) {
    this.#deps = deps;
  }

  /**
   * Removes artifacts until `isEnough`, or until nothing is left that may go. Callers that come meanwhile wait for the
   * same collection. It never throws, because its caller looks at the disk again and reports that.
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
      log.error({ err: error }, "the collection of artifacts failed");
    } finally {
      this.#notBeforeMs = clock.monotonicMs() + restMs;
      this.#underWay = undefined;
    }
  }

  /** @throws an error of {@link #needed} */
  async #collect(isEnough: () => Promise<boolean>): Promise<void> {
    const { log, metrics, collectTemplates, clock } = this.#deps;
    await collectTemplates();
    const isShared = await this.#isCacheShared();
    const cached = isShared ? [] : await this.#cached();
    const artifacts = [...cached, ...(await this.#engines(isShared)), ...this.#quarantined()];
    const needed = artifacts.length > 0 ? await this.#needed() : new Set<string>();
    for (const artifact of planCollection(artifacts, needed, clock.nowMs() - minAgeMs)) {
      if (await isEnough()) return;
      try {
        await this.#remove(artifact);
        metrics.artifactsCollected.inc({ kind: artifact.kind });
        log.warn({ ...artifact }, "the disk is nearly full: removed an artifact that nothing needs");
      } catch (error) {
        // A damaged snapshot that a sandbox or template names stays, and so does a file that cannot be removed.
        if (!isDomainError(error, "invalid_state"))
          log.error({ err: error, ...artifact }, "the artifact cannot be removed");
      }
    }
  }

  /** Whether another state folder uses the cache. Then the needs of its snapshots are unknown. */
  async #isCacheShared(): Promise<boolean> {
    const { cacheDir, stateDir, log } = this.#deps;
    const others = await otherCacheUsers(await assetsFolderOf(cacheDir), stateDir);
    if (others.length > 0) log.warn({ others }, "the cache is shared, so none of its files is removed");
    return others.length > 0;
  }

  async #engines(isCacheShared: boolean): Promise<Artifact[]> {
    const kept = await this.#deps.driver.keptEngines();
    const engines = kept.filter(({ isCached }) => !(isCached && isCacheShared));
    return engines.map(({ folder, atMs }) => ({ name: folder, atMs, kind: "engine" }));
  }

  async #cached(): Promise<Artifact[]> {
    const { cacheDir, uploads } = this.#deps;
    const assetsFolder = await assetsFolderOf(cacheDir);
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

  /** The names of all artifacts that something needs. @throws an error after which nothing may be removed */
  async #needed(): Promise<Set<string>> {
    const { ledger, driver, cacheDir, assets, uploads } = this.#deps;
    const needs = new Map<string, readonly string[]>();
    const snapshots = listSnapshots(ledger, ["making", "ready", "quarantined"]);
    for (const { id, folder, state } of snapshots) {
      const manifest =
        state === "making" ? undefined : await readManifest(folder).catch((error) => this.#giveUp(error));
      needs.set(id, manifest ? await driver.pathsOf(manifest) : []);
    }
    const installed = await readGuestAssets(cacheDir);
    const archives = listSourcedBuilds(ledger).flatMap(({ spec }) => copiedHashes(spec).map(uploads.pathOf, uploads));
    const codeInterpreterDisk = await findCodeInterpreterDisk(cacheDir);
    const images = [assets, installed].flatMap(({ kernel, initramfs, baseDisk, agent }) => [
      kernel,
      initramfs,
      baseDisk,
      agent,
    ]);
    if (codeInterpreterDisk !== undefined) images.push(codeInterpreterDisk);
    const roots = snapshots.map(({ id }) => id);
    const all = reachable([...roots, ...images, ...archives, ...(await driver.filesInUse())], needs);
    // The files that a damaged snapshot needs stay. Whether the snapshot itself is needed decides the quarantine.
    for (const { id, state } of snapshots) if (state === "quarantined") all.delete(id);
    const assetsFolder = await assetsFolderOf(cacheDir);
    return new Set([...all, ...(await Promise.all([...all].map((name) => cachedNameOf(assetsFolder, name))))]);
  }

  /** A snapshot without a manifest needs nothing any more; a snapshot that cannot be read may need anything. */
  #giveUp(error: unknown): undefined {
    if (isDomainError(error, "not_found") && error.details.damaged === true) return undefined;
    this.#deps.log.error({ reason: messageOf(error) }, "the needs of a snapshot cannot be read, so nothing is removed");
    throw error;
  }

  async #remove({ kind, name }: Artifact): Promise<void> {
    if (kind === "quarantined") await this.#deps.quarantine.remove(name);
    else if (kind === "engine") await this.#deps.driver.removeEngine(name);
    else await rm(name, { recursive: true, force: true });
  }
}
