/** Opens the image store from the settings. */
import { join } from "node:path";
import type { Clock } from "../../clock.ts";
import { DomainError } from "../../errors.ts";
import type { ReachStep } from "../../lifecycle-steps.ts";
import type { Logger } from "../../log.ts";
import type { Metrics } from "../../metrics.ts";
import { readGuestPrograms } from "../assets/guest-programs.ts";
import { makeDiskInProcess } from "../image-disk/process.ts";
import { BlobCache } from "../registry/blobs.ts";
import { RegistryClient } from "../registry/client.ts";
import type { RegistrySettings } from "../registry/session.ts";
import { ImageStore } from "./store.ts";

export interface ImageSettings {
  readonly cacheDir: string;
  readonly imageCacheMiB: number;
  /** `host[:port]`, with commas. */
  readonly insecureRegistry: string;
  /** `REGISTRY=URL`, with commas. */
  readonly registryMirror: string;
  readonly allowLocalImages: "yes" | "no";
}

export interface ImageWork {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Pick<Metrics, "images" | "imagePulledBytes">;
  readonly reach: ReachStep;
  readonly admitBytes: (what: string, bytes: number) => Promise<void>;
}

/** @throws DomainError `invalid_argument` naming the setting */
export async function openImages(
  config: ImageSettings,
  { clock, log, metrics, reach, admitBytes }: ImageWork,
): Promise<ImageStore> {
  const settings = parseRegistries(config);
  const blobsFolder = join(config.cacheDir, "blobs");
  const count = (bytes: number) => metrics.imagePulledBytes.inc(bytes);
  const blobs = await BlobCache.open(blobsFolder, config.imageCacheMiB * 2 ** 20, clock, count);
  const architecture = process.arch === "arm64" ? "arm64" : "amd64";
  const client = new RegistryClient({ clock, settings, blobs, architecture });
  const programs = await readGuestPrograms(config.cacheDir);
  const folder = join(config.cacheDir, "assets", "images");
  const allowLocal = config.allowLocalImages === "yes";
  return ImageStore.open({
    folder,
    client,
    blobs,
    architecture,
    allowLocal,
    programs,
    makeDisk: makeDiskInProcess,
    log,
    metrics,
    reach,
    admitBytes,
  });
}

/** @throws DomainError `invalid_argument` naming the setting */
export function parseRegistries({
  insecureRegistry,
  registryMirror,
}: Pick<ImageSettings, "insecureRegistry" | "registryMirror">): RegistrySettings {
  const insecure = new Set(list(insecureRegistry));
  const mirrors = new Map<string, string[]>();
  for (const pair of list(registryMirror)) {
    const at = pair.indexOf("=");
    const [registry, url] = [pair.slice(0, at), pair.slice(at + 1)];
    if (at < 1 || !URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol)) {
      const message = `wrong settings:\n  --registry-mirror: '${pair}' is not REGISTRY=URL, such as docker.io=https://mirror.example`;
      throw new DomainError("invalid_argument", message);
    }
    mirrors.set(registry, [...(mirrors.get(registry) ?? []), url]);
    if (url.startsWith("http:")) insecure.add(new URL(url).host);
  }
  return { insecure, mirrors };
}

const list = (text: string) =>
  text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "");
