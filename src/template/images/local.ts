/**
 * Images in files of this host: a folder in OCI's layout, or an archive that `docker save` wrote. They are read with the
 * daemon's rights, which clients do not have, so a setting has to allow them. Their blobs go through the cache like
 * those of a registry, and are compared with their digests there.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { isAbsolute, join, posix } from "node:path";
import { z } from "zod";
import { DomainError, messageOf } from "../../errors.ts";
import { TarReader } from "../image-disk/tar.ts";
import type { BlobCache, BlobSource } from "../registry/blobs.ts";
import { badImage } from "../registry/failures.ts";
import {
  type Architecture,
  choosePlatform,
  type Descriptor,
  type ImageConfig,
  type Manifest,
  ManifestProblem,
  maxManifestBytes,
  readAnswer,
  readImageConfig,
  readManifest,
} from "../registry/manifest.ts";

export interface LocalImage {
  readonly reference: { readonly text: string };
  readonly digest: string;
  readonly manifest: Manifest;
  /** The place of each blob, by digest. */
  readonly places: ReadonlyMap<string, BlobPlace>;
}

interface BlobPlace {
  readonly path: string;
  readonly offset: number;
  readonly sizeBytes: number;
}

type Location = {
  readonly kind: "oci-layout" | "docker-archive";
  readonly path: string;
  readonly tag: string | undefined;
};

const refName = "org.opencontainers.image.ref.name";
const layoutIndex = z.looseObject({
  manifests: z.array(z.looseObject({ digest: z.string(), annotations: z.record(z.string(), z.string()).optional() })),
});
const archiveManifest = z
  .array(
    z.looseObject({
      Config: z.string(),
      RepoTags: z.array(z.string()).nullish(),
      Layers: z.array(z.string()).max(512),
    }),
  )
  .min(1);
const layerType = "application/vnd.oci.image.layer.v1.tar";

/** The file that a reference names; undefined when it names an image of a registry. Pure. */
export function parseLocal(text: string): Location | undefined {
  const found = /^(oci-layout|docker-archive):(.+)$/s.exec(text);
  if (!found) return undefined;
  const [, kind, rest = ""] = found;
  const [, path = rest, tag] = /^(.*\/[^/:]*):([^/:]+)$/s.exec(rest) ?? [];
  return { kind: kind as Location["kind"], path, tag };
}

/**
 * Reads what an image in a file consists of.
 * @throws DomainError `failed_precondition`, `invalid_argument`; system errors as `failed_precondition`
 */
export async function resolveLocal(text: string, location: Location, architecture: Architecture): Promise<LocalImage> {
  if (!isAbsolute(location.path))
    throw new DomainError("invalid_argument", `invalid image reference '${text}': write an absolute path`);
  const read = location.kind === "oci-layout" ? readLayout : readArchive;
  return checked(text, () => read(text, location, architecture));
}

/** Gets the configuration and every layer into the cache. Hold the blobs before. */
export async function fetchLocal(
  image: LocalImage,
  { blobs, architecture }: { readonly blobs: BlobCache; readonly architecture: Architecture },
  signal: AbortSignal,
): Promise<ImageConfig> {
  const { manifest, places, reference } = image;
  const { text } = reference;
  const sourceOf = ({ digest }: Descriptor): BlobSource => ({
    image: reference,
    get: async (from) => open(text, places.get(digest), from),
  });
  const path = await blobs.fetch(manifest.config, sourceOf(manifest.config), signal);
  for (const layer of manifest.layers) await blobs.fetch(layer, sourceOf(layer), signal);
  return checked(text, async () => readImageConfig(await readFile(path), manifest.layers.length, architecture));
}

function open(text: string, place: BlobPlace | undefined, from: number) {
  if (!place) throw badImage({ text }, "a layer of it is not there");
  const { path, offset, sizeBytes } = place;
  const end = offset + sizeBytes - 1;
  const body: AsyncIterable<Buffer> =
    sizeBytes > from ? createReadStream(path, { start: offset + from, end }) : nothing();
  return { statusCode: from > 0 ? 206 : 200, body };
}

async function* nothing(): AsyncGenerator<Buffer> {}

async function readLayout(text: string, { path, tag }: Location, architecture: Architecture): Promise<LocalImage> {
  const { manifests } = layoutIndex.parse(JSON.parse(await readSmall(join(path, "index.json"))));
  const named = tag === undefined ? manifests : manifests.filter(({ annotations }) => annotations?.[refName] === tag);
  const [first, ...others] = named;
  if (!first) throw new ManifestProblem(`its index has ${tag === undefined ? "no image" : `no image ${tag}`}`);
  const tags = manifests.map(({ annotations }) => annotations?.[refName]).join(", ");
  if (others.length > 0) throw new ManifestProblem(`its index has several images, so name one of: ${tags}`);
  const blobPath = (digest: string) => {
    if (!/^sha256:[0-9a-f]{64}$/.test(digest)) throw new ManifestProblem("a digest in it has no form that can be used");
    return join(path, "blobs", "sha256", digest.slice(7));
  };
  const readBlob = async (digest: string) => {
    const bytes = Buffer.from(await readSmall(blobPath(digest)));
    if (digestOf(bytes) !== digest)
      throw new ManifestProblem(`a manifest has the digest ${digestOf(bytes)}, and not ${digest}`);
    return readAnswer(bytes);
  };
  let digest = first.digest;
  let answer = await readBlob(digest);
  if (answer.kind === "index") {
    digest = choosePlatform(answer.value, architecture).digest;
    answer = await readBlob(digest);
  }
  const manifest = readManifest(answer.value);
  const places = [manifest.config, ...manifest.layers].map(
    ({ digest: blob, size }) => [blob, { path: blobPath(blob), offset: 0, sizeBytes: size }] as const,
  );
  return { reference: { text }, digest, manifest, places: new Map(places) };
}

/** Layers in it are plain archives, so their digests are those that the configuration has of them unpacked. */
async function readArchive(text: string, { path, tag }: Location): Promise<LocalImage> {
  const { places, small } = await indexArchive(path);
  const manifests = archiveManifest.parse(JSON.parse(small.get("manifest.json")?.toString() ?? ""));
  const chosen = manifests.find(
    ({ RepoTags }) => tag === undefined || RepoTags?.some((name) => name.endsWith(`:${tag}`)),
  );
  if (!chosen) throw new ManifestProblem(`it has no image ${tag}`);
  const config = small.get(chosen.Config);
  if (!config) throw new ManifestProblem("its configuration is not there");
  const { rootfs } = z
    .looseObject({ rootfs: z.looseObject({ diff_ids: z.array(z.string()) }) })
    .parse(JSON.parse(config.toString()));
  const placeOf = (name: string) => {
    const place = places.get(name);
    if (!place) throw new ManifestProblem(`${name} is not there`);
    return place;
  };
  const layers = chosen.Layers.map((name, index) => ({ digest: rootfs.diff_ids[index] ?? "", place: placeOf(name) }));
  const manifest = readManifest({
    config: { digest: digestOf(config), size: config.length },
    layers: layers.map(({ digest, place }) => ({ mediaType: layerType, digest, size: place.sizeBytes })),
  });
  const all = [
    [digestOf(config), placeOf(chosen.Config)] as const,
    ...layers.map(({ digest, place }) => [digest, place] as const),
  ];
  return { reference: { text }, digest: digestOf(config), manifest, places: new Map(all) };
}

/** Where each file of an archive lies, and the content of its small ones. Links are followed. */
async function indexArchive(path: string) {
  const places = new Map<string, BlobPlace>();
  const small = new Map<string, Buffer>();
  const links: [name: string, target: string][] = [];
  let current: { name: string; pieces: Buffer[] } | undefined;
  const reader = new TarReader({
    entry({ kind, path: name, sizeBytes, linkTarget }) {
      current = undefined;
      if (kind === "symlink") links.push([name, posix.join(posix.dirname(name), linkTarget)]);
      if (kind === "hardlink") links.push([name, linkTarget]);
      if (kind !== "file") return;
      places.set(name, { path, offset: reader.position, sizeBytes });
      if (name.endsWith(".json") || sizeBytes <= maxManifestBytes) current = { name, pieces: [] };
      if (sizeBytes > maxManifestBytes) current = undefined;
    },
    data(bytes) {
      if (!current) return;
      current.pieces.push(Buffer.from(bytes));
      small.set(current.name, Buffer.concat(current.pieces));
    },
  });
  for await (const piece of createReadStream(path, { highWaterMark: 256 * 1024 })) reader.push(piece as Buffer);
  reader.end();
  for (const [name, target] of links) {
    const place = places.get(target);
    if (place) places.set(name, place);
  }
  return { places, small };
}

async function readSmall(path: string): Promise<string> {
  if ((await stat(path)).size > maxManifestBytes) throw new ManifestProblem("a manifest is too long");
  return readFile(path, "utf8");
}

async function checked<T>(text: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    const isForm = error instanceof z.ZodError || error instanceof SyntaxError;
    throw badImage({ text }, isForm ? "it has no form that can be used" : messageOf(error));
  }
}

const digestOf = (bytes: Buffer) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
