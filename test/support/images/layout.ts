/** Folders in OCI's layout, as tools like skopeo read and write them. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** @param manifests the entries of the layout's own index */
export async function writeLayout(
  folder: string,
  blobs: Iterable<readonly [digest: string, bytes: Buffer]>,
  manifests: readonly object[],
): Promise<void> {
  const place = join(folder, "blobs", "sha256");
  await mkdir(place, { recursive: true });
  for (const [digest, bytes] of blobs) await writeFile(join(place, digest.slice("sha256:".length)), bytes);
  await writeFile(join(folder, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
  await writeFile(join(folder, "index.json"), JSON.stringify({ schemaVersion: 2, manifests }));
}

/** The entry that gives a manifest or an index a tag. */
export function tagged(tag: string, { digest, size, mediaType }: { digest: string; size: number; mediaType: string }) {
  return { mediaType, digest, size, annotations: { "org.opencontainers.image.ref.name": tag } };
}
