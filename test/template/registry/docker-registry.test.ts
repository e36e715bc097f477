/** Images that skopeo pushed to Debian's docker-registry are pulled as from any other registry, and become disks. */
import { execFileSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { login as account, missingPrograms, startDockerRegistry } from "../../support/images/docker-registry.ts";
import { tagged, writeLayout } from "../../support/images/layout.ts";
import { digestOf, makeImage, makeIndex } from "../../support/images/make-image.ts";
import { openClient } from "../../support/images/registry-client.ts";
import { titleOf } from "../../support/skipped-title.ts";

const login = { type: "registry", ...account } as const;
const zstd = (bytes: Buffer) => execFileSync("zstd", ["-q", "-c"], { input: bytes });

test.skipIf(missingPrograms)(
  titleOf("an index with gzip and zstd in docker-registry is pulled with a password, not without", missingPrograms),
  async () => {
    await using registry = await startDockerRegistry();
    await using pull = await openClient();
    const folder = await mkdtemp(join(tmpdir(), "firkin-layout-"));
    try {
      const first = makeImage({ layers: [[{ path: "a", content: "mine" }], []] });
      const layerType = "application/vnd.oci.image.layer.v1.tar+zstd";
      const packed = makeImage({ layers: [[{ path: "b", content: "packed" }]], pack: zstd, layerType });
      const other = makeImage({ layers: [[{ path: "a", content: "other" }]], architecture: "arm64" });
      const linux = (architecture: string) => ({ os: "linux", architecture });
      const index = (mine: typeof first) =>
        makeIndex([
          { image: other, platform: linux("arm64") },
          { image: mine, platform: linux("amd64") },
        ]);
      const mediaType = "application/vnd.oci.image.index.v1+json";
      const entry = (tag: string, bytes: Buffer) =>
        tagged(tag, { mediaType, digest: digestOf(bytes), size: bytes.length });
      const indexes = { v1: index(first), v2: index(packed) };
      const manifests = [first, packed, other].map(({ digest, manifest }) => [digest, manifest] as const);
      const blobs = [first, packed, other].flatMap((image) => [...image.blobs]);
      await writeLayout(
        folder,
        [...blobs, ...manifests, ...Object.values(indexes).map((bytes) => [digestOf(bytes), bytes] as const)],
        Object.entries(indexes).map(([tag, bytes]) => entry(tag, bytes)),
      );
      for (const tag of ["v1", "v2"]) await registry.push(`oci:${folder}:${tag}`, `t/img:${tag}`);
      const reference = `${registry.host}/t/img`;
      expect(await pull.pull(`${reference}:v1`, login)).toMatchObject({ digest: first.digest, isPublic: false });
      expect(await pull.pull(`${reference}:v2`, login)).toMatchObject({ digest: packed.digest });
      expect(await pull.pull(`${reference}@${digestOf(indexes.v1)}`, login)).toMatchObject({ digest: first.digest });
      await expect(pull.pull(`${reference}:v3`, login)).rejects.toThrow("the image or tag does not exist");
      await expect(pull.pull(`${reference}:v1`)).rejects.toThrow("authentication required");
      const wrong = pull.pull(`${reference}:v1`, { ...login, password: "wrong" });
      await expect(wrong).rejects.toThrow("authentication required");
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
);
