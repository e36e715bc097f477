/** Pulls from registries that are honest, odd, slow and hostile. */
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { digestOf, makeImage, makeIndex } from "../../support/images/make-image.ts";
import { refuse, TestRegistry } from "../../support/images/registry.ts";
import { openClient } from "../../support/images/registry-client.ts";

let registry: TestRegistry;
beforeEach(async () => {
  registry = await TestRegistry.open();
});
afterEach(() => registry[Symbol.asyncDispose]());

const file = (content: string | Buffer = "hello") => [{ path: "a", content }];
const plain = makeImage({ layers: [file()] });
/** Blobs that do not shrink. */
const large = makeImage({ layers: [file(randomBytes(1_000_000))], pack: (tar) => tar });
const layerOf = (image: typeof plain) => [...image.blobs.keys()][1] ?? "";

test("an image is pulled once, by tag and by digest", async () => {
  await using pull = await openClient();
  const reference = registry.add("some/image", plain, "v1");
  const image = await pull.pull(reference);
  expect(image).toMatchObject({ digest: plain.digest, isPublic: true });
  await pull.pull(`${registry.host}/some/image@${plain.digest}`);
  expect(registry.pulls(layerOf(plain))).toBe(1);
  expect(await readFile(pull.blobs.pathOf(layerOf(plain)))).toEqual(plain.blobs.get(layerOf(plain)));
  expect((await pull.files()).length).toBe(2);
});

test("of an index the image of this machine is taken, and attestations are passed over", async () => {
  await using pull = await openClient();
  const other = makeImage({ layers: [file("arm")], architecture: "arm64" });
  const attestation = makeImage({ layers: [], architecture: "unknown" });
  for (const image of [plain, other, attestation]) registry.add("many", image, image.digest.slice(7));
  const linux = (architecture: string) => ({ os: "linux", architecture });
  const all = [
    { image: attestation, platform: { os: "unknown", architecture: "unknown" } },
    { image: other, platform: { ...linux("arm64"), variant: "v8" } },
    { image: plain, platform: linux("amd64") },
  ];
  registry.addManifest("many", makeIndex(all), "latest");
  expect((await pull.pull(`${registry.host}/many`)).digest).toBe(plain.digest);
  registry.addManifest("many", makeIndex(all.slice(0, 2)), "arm");
  await expect(pull.pull(`${registry.host}/many:arm`)).rejects.toThrow(
    'image does not match expected "linux/amd64": it has linux/arm64',
  );
  const wrong = registry.add("many", other, "wrong");
  await expect(pull.pull(wrong)).rejects.toThrow('image architecture "arm64" does not match expected "amd64"');
});

test("a tag that moves while its image is pulled changes nothing about the pull", async () => {
  await using pull = await openClient();
  const moved = makeImage({ layers: [file("moved")] });
  const linux = { os: "linux", architecture: "amd64" };
  registry.add("moving", plain, plain.digest.slice(7));
  registry.addManifest("moving", makeIndex([{ image: plain, platform: linux }]), "latest");
  registry.interfere = ({ url }) => {
    // Between the index and the manifest of the platform.
    if (url?.endsWith(plain.digest)) {
      registry.add("moving", moved, moved.digest.slice(7));
      registry.addManifest("moving", makeIndex([{ image: moved, platform: linux }]), "latest");
    }
    return false;
  };
  const reference = `${registry.host}/moving`;
  const image = await pull.resolve(reference);
  expect(image.digest).toBe(plain.digest);
  await pull.client.fetch(image, new AbortController().signal);
  expect(await readFile(pull.blobs.pathOf(layerOf(plain)))).toEqual(plain.blobs.get(layerOf(plain)));
  expect((await pull.pull(reference)).digest).toBe(moved.digest);
});

test.each([
  [404, "MANIFEST_UNKNOWN", "image 'X' not found: the image or tag does not exist in the registry"],
  [404, "NAME_UNKNOWN", "repository 'X' not found: verify the image name is correct"],
  [403, "DENIED", "access denied to 'X': you don't have permission to pull this image"],
  [401, "UNAUTHORIZED", "access denied to 'X': authentication required or insufficient permissions"],
  [500, "ODD", "failed to pull image 'X': registry returned status code 500"],
])("%i %s is worded as E2B words it", async (status, code, message) => {
  await using pull = await openClient();
  const reference = `${registry.host}/t/img:v1`;
  registry.interfere = (_, response) => {
    refuse(response, status, code);
    return true;
  };
  await expect(pull.resolve(reference)).rejects.toThrow(message.replace("X", reference));
});

test("a registry that is not there cannot be reached, which callers can tell", async () => {
  await using pull = await openClient();
  await expect(pull.resolve("127.0.0.1:1/a")).rejects.toMatchObject({
    message: "failed to pull image '127.0.0.1:1/a': unable to retrieve image from registry (ECONNREFUSED)",
    details: { unreachable: true },
  });
});

test("a registry that asks for a pause gets it, a few times", async () => {
  await using pull = await openClient();
  const reference = registry.add("busy", plain);
  let refusals = 2;
  registry.interfere = (_, response) => {
    if (refusals-- <= 0) return false;
    refuse(response, 429, "TOOMANYREQUESTS", { "retry-after": "7" });
    return true;
  };
  await pull.resolve(reference);
  expect(pull.clock.slept).toEqual([7000, 7000]);
  refusals = 100;
  await expect(pull.resolve(reference)).rejects.toThrow("the registry allows no more pulls for now (429)");
  registry.interfere = (_, response) => {
    refuse(response, 429, "TOOMANYREQUESTS", { "retry-after": "3600" });
    return true;
  };
  await expect(pull.resolve(reference)).rejects.toThrow("no more pulls for now");
});

test("a download that breaks off goes on where it stopped", async () => {
  await using pull = await openClient();
  const reference = registry.add("large", large);
  const blob = large.blobs.get(layerOf(large)) ?? Buffer.alloc(0);
  registry.interfere = (request, response) => {
    if (!request.url?.endsWith(layerOf(large)) || request.headers.range) return false;
    response.writeHead(200, { "content-length": blob.length });
    response.write(blob.subarray(0, blob.length / 2), () => setTimeout(() => response.destroy(), 50));
    return true;
  };
  await pull.pull(reference);
  const ranges = registry.seen.filter(({ path }) => path.endsWith(layerOf(large))).map(({ range }) => range);
  expect(ranges.length).toBe(2);
  expect(ranges[1]).toMatch(/^bytes=[1-9]\d*-$/);
  expect(await readFile(pull.blobs.pathOf(layerOf(large)))).toEqual(blob);
});

test("a registry without ranges begins anew, and one that always breaks off is given up", async () => {
  await using pull = await openClient();
  const reference = registry.add("large", large);
  const blob = large.blobs.get(layerOf(large)) ?? Buffer.alloc(0);
  let whole = false;
  registry.interfere = (request, response) => {
    if (!request.url?.endsWith(layerOf(large))) return false;
    response.writeHead(200, { "content-length": blob.length });
    if (whole) response.end(blob);
    else response.write(blob.subarray(0, 1000), () => setTimeout(() => response.destroy(), 10));
    whole = request.headers.range !== undefined;
    return true;
  };
  await pull.pull(reference);
  expect(await readFile(pull.blobs.pathOf(layerOf(large)))).toEqual(blob);

  await using other = await openClient();
  registry.interfere = (request, response) => {
    if (!request.url?.endsWith(layerOf(large))) return false;
    response.destroy();
    return true;
  };
  await expect(other.pull(reference)).rejects.toThrow("unable to retrieve image from registry");
  expect(other.clock.slept).toEqual([500, 1000, 2000, 4000]);
  expect((await other.files()).filter((name) => name.endsWith(".partial"))).toEqual([]);
});

test.each([
  ["other bytes", (bytes: Buffer) => Buffer.from(bytes).fill(1, 0, 10), /a blob has the digest sha256:/],
  ["more bytes", (bytes: Buffer) => Buffer.concat([bytes, Buffer.from("x")]), /a blob is longer than the/],
  ["fewer bytes", (bytes: Buffer) => bytes.subarray(1), /a blob ended after|has the digest/],
])("a layer with %s is refused, and nothing of it is kept", async (_, change, message) => {
  await using pull = await openClient();
  const reference = registry.add("bad", large);
  registry.spoil(layerOf(large), change(large.blobs.get(layerOf(large)) ?? Buffer.alloc(0)));
  await expect(pull.pull(reference)).rejects.toThrow(message);
  expect((await pull.files()).length).toBe(1);
});

test("a manifest that is not what its digest says is refused", async () => {
  await using pull = await openClient();
  registry.add("bad", plain);
  registry.interfere = (_, response) => {
    response.writeHead(200, { "docker-content-digest": plain.digest }).end(large.manifest);
    return true;
  };
  for (const version of [":latest", `@${plain.digest}`]) {
    await expect(pull.resolve(`${registry.host}/bad${version}`)).rejects.toThrow("its manifest has the digest");
  }
});

test.each([
  ["no JSON", Buffer.from("<html>"), "its manifest is no JSON"],
  ["schema 1", Buffer.from('{"schemaVersion":1}'), "schema version 1"],
  ["nothing", Buffer.from("null"), "has no form that can be used"],
  [
    "a foreign layer",
    makeImage({ layers: [file()], layerType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" }).manifest,
    "foreign layer",
  ],
  [
    "a chart",
    makeImage({ layers: [file()], layerType: "application/vnd.cncf.helm.chart.content.v1.gzip" }).manifest,
    "it is no image",
  ],
  ["5 MiB", Buffer.alloc(5 * 2 ** 20, " "), "longer than 4194304 bytes"],
])("a manifest that is %s is refused by name", async (_, manifest, message) => {
  await using pull = await openClient();
  registry.addManifest("odd", manifest, "latest");
  await expect(pull.resolve(`${registry.host}/odd`)).rejects.toThrow(message);
});

test("two builds that want one image pull it once, and one of them may go", async () => {
  await using pull = await openClient();
  const reference = registry.add("shared", large);
  const blob = layerOf(large);
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  registry.interfere = (request, response) => {
    if (!request.url?.endsWith(blob)) return false;
    void held.then(() => response.end(large.blobs.get(blob)));
    return true;
  };
  const leaving = new AbortController();
  const first = pull.pull(reference, undefined, leaving.signal);
  const second = pull.pull(reference);
  await expect.poll(() => registry.pulls(blob)).toBe(1);
  leaving.abort(new Error("gone"));
  await expect(first).rejects.toThrow("gone");
  release();
  await second;
  expect(registry.pulls(blob)).toBe(1);
});

test("when all have gone, nothing is left of a download", async () => {
  await using pull = await openClient();
  const reference = registry.add("left", large);
  registry.interfere = (request) => request.url?.endsWith(layerOf(large)) === true;
  const leaving = new AbortController();
  const pulling = pull.pull(reference, undefined, leaving.signal);
  await expect.poll(() => registry.pulls(layerOf(large))).toBe(1);
  leaving.abort(new Error("gone"));
  await expect(pulling).rejects.toThrow("gone");
  expect((await pull.files()).filter((name) => name.endsWith(".partial"))).toEqual([]);
});

test("a mirror is asked first, and the registry when the mirror has nothing", async () => {
  await using mirror = await TestRegistry.open();
  const mirrors = new Map([[registry.host, [`http://${mirror.host}`]]]);
  await using pull = await openClient({ mirrors });
  const reference = registry.add("both", plain);
  mirror.add("both", plain);
  await pull.resolve(reference);
  expect([mirror.seen.length, registry.seen.length]).toEqual([1, 0]);
  await pull.resolve(registry.add("here", plain));
  expect([mirror.seen.length, registry.seen.length]).toEqual([2, 1]);
});

test("digests of blobs are names of files, and nothing else can be", async () => {
  await using pull = await openClient();
  const manifest = JSON.parse(plain.manifest.toString()) as { layers: { digest: string }[] };
  for (const digest of ["sha256:../../etc/passwd", "md5:1", `sha256:${"A".repeat(64)}`]) {
    const bad = { ...manifest, layers: [{ ...manifest.layers[0], digest }] };
    registry.addManifest("path", Buffer.from(JSON.stringify(bad)), "latest");
    await expect(pull.resolve(`${registry.host}/path`)).rejects.toThrow("no form that can be used");
  }
  expect(digestOf(plain.manifest)).toBe(plain.digest);
});
