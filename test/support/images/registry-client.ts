/** A client of registries for tests: a cache of its own, and a clock that does not wait. */
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Clock } from "../../../src/clock.ts";
import { BlobCache } from "../../../src/template/registry/blobs.ts";
import { RegistryClient, type ResolvedImage } from "../../../src/template/registry/client.ts";
import type { RegistryLogin } from "../../../src/template/registry/credentials.ts";
import { parseReference } from "../../../src/template/registry/reference.ts";
import type { RegistrySettings } from "../../../src/template/registry/session.ts";

/** Sleeps end at once; `slept` has how long they would have been. */
export class HastyClock implements Clock {
  readonly slept: number[] = [];
  #ms = 0;
  nowMs = () => this.#ms;
  monotonicMs = () => this.#ms;

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    this.slept.push(ms);
    this.#ms += ms;
  }

  advance(ms: number): void {
    this.#ms += ms;
  }
}

export interface TestClient extends AsyncDisposable {
  readonly client: RegistryClient;
  readonly blobs: BlobCache;
  readonly clock: HastyClock;
  readonly folder: string;
  resolve(reference: string, login?: RegistryLogin): Promise<ResolvedImage>;
  /** Resolves and fetches everything. */
  pull(reference: string, login?: RegistryLogin, signal?: AbortSignal): Promise<ResolvedImage>;
  files(): Promise<string[]>;
}

const noSettings: RegistrySettings = { insecure: new Set(), mirrors: new Map() };

export async function openClient(settings: Partial<RegistrySettings> = {}, budgetBytes = 2 ** 30): Promise<TestClient> {
  const folder = await mkdtemp(join(tmpdir(), "firkin-blobs-"));
  const clock = new HastyClock();
  const blobs = await BlobCache.open(folder, budgetBytes, clock);
  const deps = { clock, blobs, settings: { ...noSettings, ...settings }, architecture: "amd64" } as const;
  const client = new RegistryClient(deps);
  const never = new AbortController().signal;
  const resolve = (text: string, login?: RegistryLogin) => client.resolve(parseReference(text), login, never);
  return {
    client,
    blobs,
    clock,
    folder,
    resolve,
    async pull(text, login, signal = never) {
      const image = await resolve(text, login);
      const digests = [image.manifest.config, ...image.manifest.layers].map(({ digest }) => digest);
      await blobs.hold(digests, () => client.fetch(image, signal));
      return image;
    },
    files: () => readdir(folder),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  };
}
