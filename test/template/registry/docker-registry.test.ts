/** Debian's docker-registry, with a password: an index pushed to it is pulled as from any other registry. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { makeImage, makeIndex, type TestImage } from "../../support/images/make-image.ts";
import { openClient } from "../../support/images/registry-client.ts";

const program = "docker-registry";
const isMissing = spawnSync(program, ["--version"]).status !== 0;
const login = { type: "registry", username: "me", password: "secret" } as const;
/** The password above. */
const htpasswd = "me:$2b$04$d7DP/9B/OAHig6TI9aVTyuS3MR2COBPwpVcNXQRQpldgl4ffdhVd.\n";
const authorization = `Basic ${Buffer.from("me:secret").toString("base64")}`;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

async function startRegistry() {
  const folder = await mkdtemp(join(tmpdir(), "firkin-registry-"));
  const port = await freePort();
  const config = {
    version: 0.1,
    log: { level: "error" },
    storage: { filesystem: { rootdirectory: join(folder, "data") } },
    http: { addr: `127.0.0.1:${port}` },
    auth: { htpasswd: { realm: "firkin", path: join(folder, "htpasswd") } },
  };
  await writeFile(join(folder, "htpasswd"), htpasswd);
  await writeFile(join(folder, "config.yml"), JSON.stringify(config));
  const child = spawn(program, ["serve", join(folder, "config.yml")], { stdio: "ignore" });
  const url = `http://127.0.0.1:${port}`;
  await expect
    .poll(() =>
      fetch(`${url}/v2/`).then(
        ({ status }) => status,
        () => 0,
      ),
    )
    .toBe(401);
  return {
    url,
    host: `127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      child.kill();
      await once(child, "exit");
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function put(url: string, body: Buffer, type: string): Promise<void> {
  const headers = { authorization, "content-type": type };
  const answer = await fetch(url, { method: "PUT", body: new Uint8Array(body), headers });
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
}

async function push(registry: string, name: string, image: TestImage): Promise<void> {
  for (const [digest, bytes] of image.blobs) {
    const begun = await fetch(`${registry}/v2/${name}/blobs/uploads/`, { method: "POST", headers: { authorization } });
    const place = new URL(begun.headers.get("location") ?? "", registry);
    place.searchParams.set("digest", digest);
    await put(place.href, bytes, "application/octet-stream");
  }
  const type = "application/vnd.oci.image.manifest.v1+json";
  await put(`${registry}/v2/${name}/manifests/${image.digest}`, image.manifest, type);
}

test.skipIf(isMissing)("an index in docker-registry is pulled with a password, and refused without one", async () => {
  await using registry = await startRegistry();
  await using pull = await openClient();
  const mine = makeImage({ layers: [[{ path: "a", content: "mine" }], []] });
  const other = makeImage({ layers: [[{ path: "a", content: "other" }]], architecture: "arm64" });
  for (const image of [mine, other]) await push(registry.url, "t/img", image);
  const index = makeIndex([
    { image: other, platform: { os: "linux", architecture: "arm64" } },
    { image: mine, platform: { os: "linux", architecture: "amd64" } },
  ]);
  await put(`${registry.url}/v2/t/img/manifests/v1`, index, "application/vnd.oci.image.index.v1+json");
  const reference = `${registry.host}/t/img:v1`;
  expect(await pull.pull(reference, login)).toMatchObject({ digest: mine.digest });
  await expect(pull.pull(`${registry.host}/t/img:v2`, login)).rejects.toThrow("the image or tag does not exist");
  await expect(pull.pull(reference)).rejects.toThrow("authentication required");
  await expect(pull.pull(reference, { ...login, password: "wrong" })).rejects.toThrow("authentication required");
});
