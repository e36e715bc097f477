/** Images of a test: layers, configuration and manifest, by their digests, as a registry has them. */
import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { makeTar, type TarFile } from "./tar.ts";

export const digestOf = (bytes: Buffer) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

export interface TestImage {
  readonly blobs: ReadonlyMap<string, Buffer>;
  readonly manifest: Buffer;
  readonly digest: string;
}

export interface ImageParts {
  readonly layers: readonly (readonly TarFile[] | Buffer)[];
  readonly config?: Readonly<Record<string, unknown>>;
  readonly architecture?: string;
  readonly pack?: (tar: Buffer) => Buffer;
  readonly layerType?: string;
}

export function makeImage({
  layers,
  config = {},
  architecture = "amd64",
  pack = gzipSync,
  layerType,
}: ImageParts): TestImage {
  const tars = layers.map((layer) => (Buffer.isBuffer(layer) ? layer : makeTar(layer)));
  const packed = tars.map((tar) => pack(tar));
  const configuration = Buffer.from(
    JSON.stringify({ os: "linux", architecture, config, rootfs: { type: "layers", diff_ids: tars.map(digestOf) } }),
  );
  const describe = (mediaType: string, bytes: Buffer) => ({ mediaType, digest: digestOf(bytes), size: bytes.length });
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: describe("application/vnd.oci.image.config.v1+json", configuration),
      layers: packed.map((bytes) => describe(layerType ?? "application/vnd.oci.image.layer.v1.tar+gzip", bytes)),
    }),
  );
  const blobs = new Map([configuration, ...packed].map((bytes) => [digestOf(bytes), bytes]));
  return { blobs, manifest, digest: digestOf(manifest) };
}
/** An index of images. */
export function makeIndex(entries: readonly { readonly image: TestImage; readonly platform: object }[]): Buffer {
  const manifests = entries.map(({ image, platform }) => ({
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    digest: image.digest,
    size: image.manifest.length,
    platform,
  }));
  return Buffer.from(
    JSON.stringify({ schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests }),
  );
}
