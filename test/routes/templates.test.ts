/** The template routes as clients call them, over the real service and the fake engine. */
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { connect } from "node:net";
import { join } from "node:path";
import { expect, test } from "vitest";
import { moveSandbox } from "../../src/ledger/sandboxes.ts";
import { findBuildJob } from "../../src/ledger/template-builds.ts";
import { publishBuild } from "../../src/ledger/templates.ts";
import { addReadySnapshot, addSandbox } from "../ledger/support.ts";
import { type ControlPlane, openControlPlane } from "../support/daemon/control-plane.ts";
import { shape } from "../support/fakes/fake-templates.ts";

interface Requested {
  readonly templateID: string;
  readonly buildID: string;
}

async function request(plane: ControlPlane, body: object): Promise<Requested> {
  const answer = await plane.call("POST", "/v3/templates", body);
  expect(answer.status).toBe(202);
  return answer.body as Requested;
}

/** As if a build had come to its end, without any. */
function publish({ fake }: ControlPlane, templateId: string, buildId: string, tags: string[]): void {
  addReadySnapshot(fake.ledger, `snapshot-of-${buildId}`);
  publishBuild(fake.ledger, { id: buildId, templateId, snapshotId: `snapshot-of-${buildId}`, shape, tags });
}

test("a build is asked for by name and tags", async () => {
  await using plane = openControlPlane();
  const first = await plane.call("POST", "/v3/templates", { name: "My-App:v1", tags: ["stable"] });
  expect(first.body).toMatchObject({ public: false, names: ["my-app"], aliases: ["my-app"], tags: ["v1", "stable"] });
  const again = await plane.call("POST", "/v3/templates", { name: "my-app", cpuCount: null, minFreeDiskMb: 512 });
  expect(findBuildJob(plane.fake.ledger, (again.body as Requested).buildID)).toMatchObject({ minFreeDiskMiB: 512 });
  expect(again.body).toMatchObject({ templateID: (first.body as Requested).templateID, tags: ["default"] });
  expect((again.body as Requested).buildID).not.toBe((first.body as Requested).buildID);
});

test.each([
  [{}, 400, "Name is required"],
  [{ name: "a b" }, 400, /^Invalid name: 'a b'/],
  [{ name: "team/a" }, 400, "Invalid name: 'team/a': there is no such team here"],
  [{ name: "a", tags: ["no good"] }, 400, "Invalid tag: 'no good'"],
  [{ name: "a", cpuCount: 3 }, 400, /^validation error: body\/cpuCount: must be 1 or even/],
  [{ name: "a", memoryMB: 127 }, 400, /^validation error: body\/memoryMB/],
  [{ name: "base" }, 403, /^template 'base' is made by the daemon/],
])("a bad request for a build: %j", async (body, status, message) => {
  await using plane = openControlPlane();
  const answer = await plane.call("POST", "/v3/templates", body);
  expect(answer).toMatchObject({ status, body: { code: status, message: expect.stringMatching(message) } });
});

test.each([
  [{ fromImage: "python:3", fromTemplate: "base" }, 400, "cannot specify both fromImage and fromTemplate"],
  [{ fromImageRegistry: { type: "aws" } }, 400, "must specify either fromImage or fromTemplate"],
  [{ fromImage: "a", fromImageRegistry: { type: "quay" } }, 400, "unknown registry type: quay"],
  [{ fromImage: "a", fromImageRegistry: { type: "registry", username: "x" } }, 400, /^fromImageRegistry: password/],
  [{}, 400, "must specify either fromImage or fromTemplate"],
  [{ fromTemplate: "nobody" }, 404, "template 'nobody' not found"],
  [{ fromTemplate: "base:v9" }, 404, "tag 'v9' does not exist for template 'base'"],
  [{ fromTemplate: "base", steps: [{ type: "RUN", args: [] }] }, 400, "step 1 (RUN): there is no command"],
  [
    { fromTemplate: "base", steps: [{ type: "SHELL", args: ["x"] }] },
    501,
    "step 1 (SHELL): command type SHELL is not implemented",
  ],
])("a bad start of a build: %j", async (body, status, message) => {
  await using plane = openControlPlane();
  const { templateID, buildID } = await request(plane, { name: "app" });
  const url = `/v2/templates/${templateID}/builds/${buildID}`;
  const text = typeof message === "string" ? message : expect.stringMatching(message);
  expect(await plane.call("POST", url, body)).toMatchObject({ status, body: { message: text } });
});

test.each(["e2bdev/base", "e2bdev/base:latest", "docker.io/e2bdev/base"])(
  "the image of fromBaseImage(), %s, is template base",
  async (fromImage) => {
    await using plane = openControlPlane();
    const { templateID, buildID } = await request(plane, { name: "app" });
    const url = `/templates/${templateID}/builds/${buildID}`;
    const withRegistry = { fromImage, fromImageRegistry: { type: "registry", username: "a", password: "b" } };
    expect(await plane.call("POST", `/v2${url}`, { fromImage, steps: [] })).toMatchObject({ status: 202 });
    await plane.fake.builds.finished(buildID);
    expect((await plane.call("GET", `${url}/status`)).body).toMatchObject({
      logEntries: [{}, { message: expect.stringMatching(/^\[base\] FROM base \[[0-9a-f]{64}\]$/) }, {}],
    });
    const { buildID: other } = await request(plane, { name: "app" });
    const otherUrl = `/templates/${templateID}/builds/${other}`;
    expect(await plane.call("POST", `/v2${otherUrl}`, withRegistry)).toMatchObject({ status: 202 });
    await plane.fake.builds.finished(other);
    const { body } = await plane.call("GET", `${otherUrl}/status`);
    expect(body).toMatchObject({ reason: { message: expect.stringContaining(`image '${fromImage}' not found`) } });
  },
);

test("an image that cannot be had fails the build in step base", async () => {
  await using plane = openControlPlane();
  const { templateID, buildID } = await request(plane, { name: "app" });
  await plane.call("POST", `/v2/templates/${templateID}/builds/${buildID}`, { fromImage: "python:3" });
  await plane.fake.builds.finished(buildID);
  const { body } = await plane.call("GET", `/templates/${templateID}/builds/${buildID}/status`);
  expect(body).toMatchObject({
    status: "error",
    reason: { step: "base", message: expect.stringContaining("image 'python:3' not found") },
  });
  const again = await plane.call("POST", `/v2/templates/${templateID}/builds/${buildID}`, { fromTemplate: "base" });
  expect(again).toMatchObject({ status: 400, body: { message: "build is not in waiting state" } });
});

test("status and logs report a build that fails, page by page", async () => {
  await using plane = openControlPlane();
  const { templateID, buildID } = await request(plane, { name: "app" });
  const base = `/templates/${templateID}/builds/${buildID}`;
  expect((await plane.call("GET", `${base}/status`)).body).toMatchObject({ status: "waiting", logEntries: [] });
  // There are no snapshot files behind this base.
  const body = {
    fromTemplate: "base",
    steps: [{ type: "RUN", args: ["true"], force: false, gzip: true }],
    force: false,
  };
  expect(await plane.call("POST", `/v2${base}`, body)).toMatchObject({ status: 202, text: "" });
  await plane.fake.builds.finished(buildID);
  const all = await plane.call("GET", `${base}/status`);
  expect(all.body).toMatchObject({
    templateID,
    buildID,
    status: "error",
    reason: { step: "base", message: expect.stringContaining("no snapshot in") },
    logEntries: [
      { message: `Building template ${templateID}/${buildID}`, level: "info" },
      { message: expect.stringContaining("[base] FROM base"), level: "info", step: "base" },
      { message: expect.stringContaining("Build failed: "), level: "error" },
    ],
  });
  const page = async (query: string) => {
    const answer = await plane.call("GET", `${base}/status?${query}`);
    return (answer.body as { logEntries: { level: string }[] }).logEntries.map(({ level }) => level);
  };
  expect(await page("logsOffset=2")).toEqual(["error"]);
  expect(await page("logsOffset=3")).toEqual([]);
  expect(await page("limit=1")).toEqual(["info"]);
  expect(await page("level=warn")).toEqual(["error"]);
  const logs = await plane.call("GET", `${base}/logs?direction=backward&limit=1`);
  expect(logs.body).toMatchObject({ logs: [{ level: "error" }] });
  expect((await plane.call("GET", `${base}/logs?cursor=9999999999999`)).body).toEqual({ logs: [] });
});

test("an unknown build is E2B's 400", async () => {
  await using plane = openControlPlane();
  const { templateID, buildID } = await request(plane, { name: "app" });
  const other = await request(plane, { name: "other" });
  for (const url of [
    `/templates/${templateID}/builds/nope/status`,
    `/templates/${other.templateID}/builds/${buildID}/status`,
  ]) {
    expect(await plane.call("GET", url)).toMatchObject({ status: 400, body: { message: /^Build '.*' not found$/ } });
  }
});

test("templates are listed, newest first, in pages", async () => {
  await using plane = openControlPlane();
  for (const name of ["one", "two", "three"]) await request(plane, { name });
  const all = (await plane.call("GET", "/templates")).body as { aliases: string[]; buildStatus: string }[];
  expect(all.map(({ aliases, buildStatus }) => `${aliases} ${buildStatus}`).sort()).toEqual([
    "base ready",
    "one waiting",
    "three waiting",
    "two waiting",
  ]);
  const seen: string[] = [];
  for (let token: unknown = ""; token !== undefined; ) {
    const { body, headers } = await plane.call("GET", `/v2/templates?limit=3&nextToken=${token}`);
    seen.push(...(body as { aliases: string[] }[]).flatMap(({ aliases }) => aliases));
    token = headers["x-next-token"];
  }
  expect(seen.sort()).toEqual(["base", "one", "three", "two"]);
  expect((await plane.call("GET", "/v2/templates?limit=0")).status).toBe(400);
  expect((await plane.call("GET", "/v2/templates?nextToken=x")).body).toMatchObject({ message: "Invalid next token" });
});

test("a template shows its builds, in pages", async () => {
  await using plane = openControlPlane();
  const { templateID } = await request(plane, { name: "app" });
  await request(plane, { name: "app" });
  const first = await plane.call("GET", "/templates/app?limit=1");
  expect(first.body).toMatchObject({ templateID, names: ["app"], spawnCount: 0, builds: [{ status: "waiting" }] });
  const second = await plane.call("GET", `/templates/app?limit=1&nextToken=${first.headers["x-next-token"]}`);
  expect((second.body as { builds: unknown[] }).builds).toHaveLength(1);
  expect(second.headers["x-next-token"]).toBeUndefined();
  expect((await plane.call("GET", "/templates/nobody")).body).toMatchObject({ code: 404 });
});

test("tags and aliases", async () => {
  await using plane = openControlPlane();
  const { templateID, buildID } = await request(plane, { name: "app" });
  publish(plane, templateID, buildID, ["default", "v1"]);
  const assigned = await plane.call("POST", "/templates/tags", { target: "app:v1", tags: ["Stable"] });
  expect(assigned).toMatchObject({ status: 201, body: { tags: ["stable"], buildID } });
  expect((await plane.call("GET", `/templates/${templateID}/tags`)).body).toMatchObject([
    { tag: "default", buildID },
    { tag: "stable", buildID },
    { tag: "v1", buildID },
  ]);
  expect((await plane.call("DELETE", "/templates/tags", { name: "app", tags: ["v1", "nope"] })).status).toBe(204);
  expect((await plane.call("DELETE", "/templates/tags", { name: "app", tags: ["default"] })).status).toBe(400);
  expect((await plane.call("POST", "/templates/tags", { target: "app:v1", tags: ["x"] })).status).toBe(404);
  expect((await plane.call("POST", "/templates/tags", { target: ":v1", tags: ["x"] })).status).toBe(400);
  expect((await plane.call("GET", "/templates/aliases/app")).body).toEqual({ templateID, public: false });
  expect((await plane.call("GET", "/templates/aliases/nobody")).status).toBe(404);
});

test("a template is published and unpublished", async () => {
  await using plane = openControlPlane();
  await request(plane, { name: "app" });
  expect((await plane.call("PATCH", "/v2/templates/app", { public: true })).body).toEqual({ names: ["app"] });
  expect((await plane.call("GET", "/templates/aliases/app")).body).toMatchObject({ public: true });
  expect((await plane.call("PATCH", "/templates/app", { public: false })).status).toBe(200);
  expect((await plane.call("GET", "/templates/aliases/app")).body).toMatchObject({ public: false });
  expect((await plane.call("PATCH", "/v2/templates/app", {})).body).toEqual({ names: ["app"] });
});

test("a template is deleted, but not base, and not twice", async () => {
  await using plane = openControlPlane();
  const { templateID, buildID } = await request(plane, { name: "app" });
  publish(plane, templateID, buildID, ["default"]);
  const oneTag = { status: 400, body: { message: expect.stringContaining("is no snapshot of a sandbox") } };
  expect(await plane.call("DELETE", "/templates/app%3Adefault")).toMatchObject(oneTag);
  expect((await plane.call("DELETE", `/templates/${templateID}`)).status).toBe(204);
  expect(findBuildJob(plane.fake.ledger, buildID)).toBeUndefined();
  expect((await plane.call("DELETE", `/templates/${templateID}`)).status).toBe(404);
  const ofDaemon = { message: "template 'base' is made by the daemon: it cannot be deleted" };
  expect(await plane.call("DELETE", "/templates/base")).toMatchObject({ status: 403, body: ofDaemon });
  expect((await plane.call("DELETE", "/templates/basetemplate")).status).toBe(403);
});

test("a template is deleted once the sandboxes made from it are gone; a kill that is under way is waited for", async () => {
  await using plane = openControlPlane();
  const { ledger } = plane.fake;
  const { templateID, buildID } = await request(plane, { name: "app" });
  publish(plane, templateID, buildID, ["default"]);
  const { id } = addSandbox(ledger, "iaa1", `snapshot-of-${buildID}`, templateID);
  const inUse = "cannot delete template 'app' because there are running or paused sandboxes using it";
  expect(await plane.call("DELETE", "/templates/app")).toMatchObject({ status: 400, body: { message: inUse } });
  plane.fake.settleKills = async () => void moveSandbox(ledger, id, "creating", "terminated", { endReason: "killed" });
  expect((await plane.call("DELETE", "/templates/app")).status).toBe(204);
});

const hash = "ab".repeat(32);

async function listen(plane: ControlPlane): Promise<{ port: number; uploads: () => Promise<string[]> }> {
  await plane.app.listen({ port: 0, host: "127.0.0.1" });
  const { port } = plane.app.server.address() as AddressInfo;
  return { port, uploads: () => readdir(join(plane.fake.folder, "uploads")) };
}

/** The link as the SDK gets it. */
async function linkFor(plane: ControlPlane, port: number): Promise<{ present: boolean; url: string }> {
  const { templateID } = await request(plane, { name: "app" });
  const host = { host: `127.0.0.1:${port}` };
  const answer = await plane.call("GET", `/templates/${templateID}/files/${hash}`, undefined, host);
  expect(answer.status).toBe(201);
  return answer.body as { present: boolean; url: string };
}

test("files are uploaded once, with nothing but the link", async () => {
  await using plane = openControlPlane();
  const { port, uploads } = await listen(plane);
  const { present, url } = await linkFor(plane, port);
  expect(present).toBe(false);
  const body = Buffer.alloc(3_000_000, 7);
  expect((await fetch(url, { method: "PUT", body })).status).toBe(201);
  expect(await uploads()).toEqual([hash]);
  expect((await linkFor(plane, port)).present).toBe(true);
  expect((await fetch(`${url}x`, { method: "PUT", body: "x" })).status).toBe(403);
  expect((await fetch(url.replace(/\?.*/, ""), { method: "PUT", body: "x" })).status).toBe(400);
});

test("a half-sent upload leaves nothing, and one without a length is refused", async () => {
  await using plane = openControlPlane();
  const { port, uploads } = await listen(plane);
  const { url } = await linkFor(plane, port);
  const { pathname, search } = new URL(url);
  const socket = connect(port, "127.0.0.1");
  socket.write(`PUT ${pathname}${search} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nhalf`);
  await expect.poll(uploads).toEqual([expect.stringMatching(/\.part$/)]);
  socket.destroy();
  await once(socket, "close");
  await expect.poll(uploads).toEqual([]);
  const chunked = connect(port, "127.0.0.1");
  chunked.write(`PUT ${pathname}${search} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`);
  const [answer] = await once(chunked, "data");
  expect(String(answer)).toMatch(/^HTTP\/1.1 411 /);
  chunked.destroy();
});

test("only a hash can be offered, and only for a template", async () => {
  await using plane = openControlPlane();
  const { templateID } = await request(plane, { name: "app" });
  const bad = await plane.call("GET", `/templates/${templateID}/files/${"Z".repeat(64)}`);
  expect(bad).toMatchObject({ status: 400, body: { message: "Invalid files hash" } });
  expect((await plane.call("GET", `/templates/nobody/files/${hash}`)).status).toBe(404);
});
