/** The store of images' disks: one for each image, made once, found again, and gone when it was not finished. */
import { execFileSync } from "node:child_process";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pino } from "pino";
import { afterEach, beforeEach, expect, test } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { createMetrics, type Metrics } from "../../../src/metrics.ts";
import { makeDisk } from "../../../src/template/image-disk/make-disk.ts";
import { parseRegistries } from "../../../src/template/images/open.ts";
import { ImageStore, type ImageStoreDependencies } from "../../../src/template/images/store.ts";
import { tagged, writeLayout } from "../../support/images/layout.ts";
import { digestOf, makeImage, type TestImage } from "../../support/images/make-image.ts";
import { refuse, TestRegistry } from "../../support/images/registry.ts";
import { openClient, type TestClient } from "../../support/images/registry-client.ts";
import { makeTar } from "../../support/images/tar.ts";

let registry: TestRegistry;
let pull: TestClient;
let folder: string;
let made: string[];
let metrics: Metrics;
beforeEach(async () => {
  metrics = createMetrics();
  registry = await TestRegistry.open();
  pull = await openClient();
  folder = await mkdtemp(join(tmpdir(), "firkin-images-"));
  made = [];
});
afterEach(async () => {
  await registry[Symbol.asyncDispose]();
  await pull[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

const never = new AbortController().signal;
const gaps = { bash: { content: Buffer.from("bash") }, busybox: undefined, authorities: "" };

function open(more: Partial<ImageStoreDependencies> = {}): Promise<ImageStore> {
  return ImageStore.open({
    folder,
    client: pull.client,
    blobs: pull.blobs,
    architecture: "amd64",
    allowLocal: true,
    programs: undefined,
    log: pino({ level: "silent" }),
    metrics,
    reach: () => {},
    admitBytes: async () => {},
    makeDisk: async (order, progress) => {
      made.push(order.target);
      const { filled, ...written } = await makeDisk({ ...order, gaps, minDiskMiB: 128, minFreeMiB: 16 }, progress);
      return { ...written, filled: [...filled] };
    },
    ...more,
  });
}

async function prepare(store: ImageStore, reference: string, login?: { username: string; password: string }) {
  const lines: string[] = [];
  const order = { reference, login: login && ({ type: "registry", ...login } as const) };
  const disk = await store.prepare(order, (_, line) => void lines.push(line), never);
  return { ...disk, lines };
}

const imageOf = (content: string, config = {}) => makeImage({ layers: [[{ path: "a", content }]], config });

test("an image's disk is made once, also for two builds at once, and a moved tag leads to another", async () => {
  const store = await open();
  const reference = registry.add("img", imageOf("one", { Env: ["A=b", "EMPTY=", "PATH=/app:/bin"], User: "5" }));
  const [one, other] = await Promise.all([prepare(store, reference), prepare(store, reference)]);
  expect(one).toMatchObject({ path: other.path, diskMiB: 128 });
  expect(one.envs).toEqual({ A: "b", PATH: "/app:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin" });
  expect(made.length).toBe(1);
  execFileSync("e2fsck", ["-f", "-n", one.path], { stdio: "ignore" });
  expect(one.lines.join("\n")).toMatch(
    /Uncompressing layer sha256:.*Layers extracted.*Root filesystem structure: a\n/s,
  );
  expect(one.lines.join("\n")).toContain("image config: USER 5 are not used");
  expect((await prepare(await open(), reference)).path).toBe(one.path);
  expect(made.length).toBe(1);
  const counted = await metrics.registry.metrics();
  expect(counted).toContain('firkin_images_total{result="pulled"} 2');
  expect(counted).toContain('firkin_images_total{result="cached"} 1');
  registry.add("img", imageOf("two"));
  expect((await prepare(store, reference)).path).not.toBe(one.path);
  expect((await readdir(folder)).filter((name) => name.endsWith(".partial"))).toEqual([]);
});

test("without the registry a public tag is what it was before, with a warning; a private one fails", async () => {
  const store = await open();
  const reference = registry.add("img", imageOf("one"));
  const { path } = await prepare(store, reference);
  const login = { username: "me", password: "s3cret" };
  const hidden = registry.add("hidden", imageOf("two"));
  await prepare(store, hidden, login);
  await registry[Symbol.asyncDispose]();
  const offline = await prepare(store, reference);
  expect(offline).toMatchObject({ path });
  expect(offline.lines.join("\n")).toContain("the registry cannot be reached: using sha256:");
  await expect(prepare(store, hidden)).rejects.toThrow("unable to retrieve image");
  await expect(prepare(store, hidden, login)).rejects.toThrow("unable to retrieve image");
  registry = await TestRegistry.open();
});

test("a registry that refuses is believed, whatever is in the cache", async () => {
  const store = await open();
  const reference = registry.add("img", imageOf("one"));
  await prepare(store, reference);
  registry.interfere = (_, response) => {
    refuse(response, 403, "DENIED");
    return true;
  };
  await expect(prepare(store, reference)).rejects.toThrow("you don't have permission to pull this image");
});

test("a login is in no file", async () => {
  const reference = registry.add("img", imageOf("one"));
  await prepare(await open(), reference, { username: "somebody", password: "s3cret" });
  const grep = (text: string) =>
    execFileSync("sh", ["-c", `grep -rlF ${text} ${folder} ${pull.folder} || true`]).toString();
  expect(grep("s3cret")).toBe("");
  expect(grep("somebody")).toBe("");
});

test("what a daemon that died left half-done is removed, and what another one works at stays", async () => {
  await writeFile(join(folder, "disk-1.ext4.999999999.partial"), "");
  await writeFile(join(folder, "disk-2.ext4.1.partial"), "");
  await open();
  expect(await readdir(folder)).toEqual(["disk-2.ext4.1.partial"]);
});

test("an image that cannot be used leaves nothing but its layers, and the next try begins anew", async () => {
  const store = await open();
  const bad = registry.add("bad", makeImage({ layers: [[{ path: "../escape" }]] }));
  await expect(prepare(store, bad)).rejects.toThrow("the path leads upwards");
  await expect(prepare(store, bad)).rejects.toThrow("the path leads upwards");
  expect((await readdir(folder)).filter((name) => !name.endsWith(".partial"))).toEqual([]);
});

test("an image that does not fit on the host is not pulled", async () => {
  const full = new DomainError("disk_pressure", "not enough free disk");
  const store = await open({
    admitBytes: async () => {
      throw full;
    },
  });
  const image = imageOf("one");
  const reference = registry.add("img", image);
  await expect(prepare(store, reference)).rejects.toThrow("not enough free disk");
  expect([...image.blobs.keys()].map((digest) => registry.pulls(digest))).toEqual([0, 0]);
});

test("mirrors and insecure registries are read from the settings", () => {
  const read = (registryMirror: string, insecureRegistry = "") => parseRegistries({ registryMirror, insecureRegistry });
  expect(read("docker.io=https://a.example, docker.io=http://b.example:5000", "c.example:80")).toEqual({
    insecure: new Set(["c.example:80", "b.example:5000"]),
    mirrors: new Map([["docker.io", ["https://a.example", "http://b.example:5000"]]]),
  });
  for (const wrong of ["docker.io", "=https://a", "a=ftp://b", "a=b"]) {
    expect(() => read(wrong)).toThrow("--registry-mirror");
  }
});

/** An image as a folder in OCI's layout. */
async function layoutOf(image: TestImage, tag = "v1", more: readonly object[] = []): Promise<string> {
  const layout = join(folder, `layout-${tag}`);
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  const entry = tagged(tag, { mediaType, digest: image.digest, size: image.manifest.length });
  await writeLayout(layout, [...image.blobs, [image.digest, image.manifest]], [entry, ...more]);
  return layout;
}

test("an image in OCI's layout is a folder, and one of several has a tag", async () => {
  const store = await open();
  const layout = await layoutOf(imageOf("one", { Env: ["A=b"] }));
  const disk = await prepare(store, `oci-layout:${layout}`);
  expect(disk).toMatchObject({ envs: { A: "b" } });
  execFileSync("e2fsck", ["-f", "-n", disk.path], { stdio: "ignore" });
  expect((await prepare(store, `oci-layout:${layout}:v1`)).path).toBe(disk.path);
  expect(made.length).toBe(1);
  await expect(prepare(store, `oci-layout:${layout}:v2`)).rejects.toThrow("its index has no image v2");
  const other = { digest: `sha256:${"0".repeat(64)}`, annotations: { "org.opencontainers.image.ref.name": "v9" } };
  const many = await layoutOf(imageOf("two"), "many", [other]);
  await expect(prepare(store, `oci-layout:${many}`)).rejects.toThrow("name one of: many, v9");
});

/** An image as `docker save` writes it: layers are plain archives, and one may be a link to another. */
async function writeArchive(contents: readonly string[]): Promise<string> {
  const layers = contents.map((content) => makeTar([{ path: "a", content }]));
  const config = { os: "linux", architecture: "amd64", config: {}, rootfs: { diff_ids: layers.map(digestOf) } };
  const manifest = [
    {
      Config: "config.json",
      RepoTags: ["my/app:v1"],
      Layers: [...layers.map((_, i) => `${i}/layer.tar`), "x/layer.tar"],
    },
  ];
  config.rootfs.diff_ids.push(digestOf(layers[0] ?? Buffer.alloc(0)));
  const path = join(folder, "saved.tar");
  const files = layers.map((content, index) => ({ path: `${index}/layer.tar`, content }));
  const link = { path: "x/layer.tar", type: "2", target: "../0/layer.tar" };
  const json = [
    { path: "config.json", content: JSON.stringify(config) },
    { path: "manifest.json", content: JSON.stringify(manifest) },
  ];
  await writeFile(path, makeTar([...files, link, ...json]));
  return path;
}

test("an archive of docker save is an image", async () => {
  const store = await open();
  const path = await writeArchive(["one", "x".repeat(5 * 2 ** 20)]);
  const disk = await prepare(store, `docker-archive:${path}`);
  execFileSync("e2fsck", ["-f", "-n", disk.path], { stdio: "ignore" });
  expect(execFileSync("debugfs", ["-R", "cat /a", disk.path], { stdio: ["ignore", "pipe", "ignore"] }).toString()).toBe(
    "one",
  );
  expect((await prepare(store, `docker-archive:${path}:v1`)).path).toBe(disk.path);
  await expect(prepare(store, `docker-archive:${path}:v2`)).rejects.toThrow("it has no image v2");
});

test("files of the host are images only when a setting allows it", async () => {
  const layout = await layoutOf(imageOf("one"));
  const store = await open({ allowLocal: false });
  await expect(prepare(store, `oci-layout:${layout}`)).rejects.toThrow("--allow-local-images");
  await expect(prepare(await open(), "oci-layout:relative/path")).rejects.toThrow("write an absolute path");
});

test("files that are no image say what they are not, and nothing of what is in them", async () => {
  const store = await open();
  await writeFile(join(folder, "secret"), "root:s3cret");
  for (const kind of ["docker-archive", "oci-layout"]) {
    const error = await prepare(store, `${kind}:${folder}/secret`).catch((reason: unknown) => reason);
    expect(String(error)).toContain("failed to pull image");
    expect(String(error)).not.toContain("s3cret");
  }
  const layout = await layoutOf(imageOf("one"));
  const layers = [...imageOf("one").blobs.keys()];
  await writeFile(join(layout, "blobs", "sha256", (layers[1] ?? "").slice(7)), "spoilt");
  await expect(prepare(store, `oci-layout:${layout}`)).rejects.toThrow(/ended after|has the digest|longer than/);
});
