/**
 * The client of registries: it resolves a reference to one image of this machine's architecture, and gets its blobs.
 * This room speaks the distribution protocol; it knows nothing of disks and builds, and calls no other room.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { Clock } from "../../clock.ts";
import { isDomainError, messageOf } from "../../errors.ts";
import type { BlobCache, BlobSource } from "./blobs.ts";
import { type Credentials, credentialsFor, type RegistryLogin } from "./credentials.ts";
import { badImage } from "./failures.ts";
import {
  type Architecture,
  choosePlatform,
  type Descriptor,
  type ImageConfig,
  indexTypes,
  type Manifest,
  ManifestProblem,
  manifestTypes,
  maxManifestBytes,
  readAnswer,
  readImageConfig,
  readManifest,
} from "./manifest.ts";
import type { ImageReference } from "./reference.ts";
import {
  basesOf,
  limitedBody,
  mayBeElsewhere,
  RegistrySession,
  type RegistrySettings,
  type TokenCache,
} from "./session.ts";

export interface RegistryDependencies {
  readonly clock: Clock;
  readonly settings: RegistrySettings;
  readonly blobs: BlobCache;
  readonly architecture: Architecture;
}

/** An image of one platform, by its content. */
export interface ResolvedImage {
  readonly reference: ImageReference;
  /** Of the manifest of the platform: equal digests are equal images. */
  readonly digest: string;
  readonly manifest: Manifest;
  /** Whether it was given to a client without a login. */
  readonly isPublic: boolean;
  readonly session: RegistrySession;
}

const parallelDownloads = 3;
const maxConfigBytes = 8 * 2 ** 20;

export class RegistryClient {
  readonly #deps: RegistryDependencies;
  readonly #tokens: TokenCache = new Map();

  constructor(deps: RegistryDependencies) {
    this.#deps = deps;
  }

  /**
   * Asks the registry what a reference stands for now.
   * @throws DomainError `failed_precondition` in E2B's words; the signal's reason
   */
  async resolve(
    reference: ImageReference,
    login: RegistryLogin | undefined,
    signal: AbortSignal,
  ): Promise<ResolvedImage> {
    const credentials = await credentialsFor(reference, login);
    const bases = basesOf(reference.registry, this.#deps.settings);
    let lastError: unknown;
    for (const [index, base] of bases.entries()) {
      try {
        const isMirror = index < bases.length - 1;
        return await this.#resolveAt(base, reference, isMirror ? undefined : credentials, signal);
      } catch (error) {
        signal.throwIfAborted();
        if (!mayBeElsewhere(error)) throw error;
        lastError = error;
      }
    }
    throw lastError;
  }

  /**
   * Gets the configuration and every layer of an image into the cache. Hold its blobs before.
   * @throws DomainError `failed_precondition`; the signal's reason
   */
  async fetch({ reference, manifest, session }: ResolvedImage, signal: AbortSignal): Promise<ImageConfig> {
    const { blobs, architecture } = this.#deps;
    if (manifest.config.size > maxConfigBytes) throw badImage(reference, "its configuration is too long");
    const sourceOf = ({ digest }: Descriptor): BlobSource => ({
      image: reference,
      get: (fromByte, shared) =>
        session.get(`blobs/${digest}`, fromByte > 0 ? { range: `bytes=${fromByte}-` } : {}, shared, [206]),
    });
    const path = await blobs.fetch(manifest.config, sourceOf(manifest.config), signal);
    const config = await this.#checked(reference, async () =>
      readImageConfig(await readFile(path), manifest.layers.length, architecture),
    );
    const failed = new AbortController();
    const both = AbortSignal.any([signal, failed.signal]);
    const waiting = [...manifest.layers];
    const worker = async () => {
      for (let layer = waiting.shift(); layer; layer = waiting.shift()) await blobs.fetch(layer, sourceOf(layer), both);
    };
    const workers = Array.from({ length: parallelDownloads }, () =>
      worker().catch((error: unknown) => {
        failed.abort(error);
        throw error;
      }),
    );
    await Promise.allSettled(workers);
    await Promise.all(workers);
    return config;
  }

  async #resolveAt(
    base: URL,
    reference: ImageReference,
    credentials: Credentials | undefined,
    signal: AbortSignal,
  ): Promise<ResolvedImage> {
    const { clock, settings, architecture } = this.#deps;
    const session = new RegistrySession({ image: reference, base, credentials, settings, tokens: this.#tokens, clock });
    const { version } = reference;
    const asked = version.kind === "digest" ? version.digest : version.tag;
    const first = await this.#manifest(session, reference, asked, signal);
    return this.#checked(reference, async () => {
      const answer = readAnswer(first.body);
      const isPublic = credentials === undefined;
      if (answer.kind === "manifest") {
        return { reference, digest: first.digest, manifest: readManifest(answer.value), isPublic, session };
      }
      const chosen = choosePlatform(answer.value, architecture);
      const second = await this.#manifest(session, reference, chosen.digest, signal);
      const manifest = readManifest(readAnswer(second.body).value);
      return { reference, digest: chosen.digest, manifest, isPublic, session };
    });
  }

  async #manifest(
    session: RegistrySession,
    reference: ImageReference,
    version: string,
    signal: AbortSignal,
  ): Promise<{ body: Buffer; digest: string }> {
    const accept = { accept: [...indexTypes, ...manifestTypes].join(", ") };
    const answer = await session.get(`manifests/${version}`, accept, signal);
    const body = await limitedBody(answer, maxManifestBytes).catch((error: unknown) => {
      signal.throwIfAborted();
      throw badImage(reference, messageOf(error));
    });
    const digest = `sha256:${createHash("sha256").update(body).digest("hex")}`;
    const said = answer.headers["docker-content-digest"];
    const expected = version.startsWith("sha256:") ? version : said;
    if (typeof expected === "string" && expected.startsWith("sha256:") && expected !== digest) {
      throw badImage(reference, `its manifest has the digest ${digest}, and not ${expected.slice(0, 80)}`);
    }
    return { body, digest };
  }

  async #checked<T>(reference: ImageReference, read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (error) {
      if (error instanceof ManifestProblem) throw badImage(reference, error.message);
      if (isDomainError(error)) throw error;
      throw error;
    }
  }
}
