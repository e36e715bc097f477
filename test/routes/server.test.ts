import { expect, test } from "vitest";
import { isKnownHost } from "../../routes/http/host-check.ts";
import { routesBelongTo } from "../../routes/http/plane-constraint.ts";
import { DomainError, type ErrorCode } from "../../src/errors.ts";
import { apiKey, openControlPlane } from "../support/daemon/control-plane.ts";

const invalidKey = "Invalid API key, please visit https://e2b.dev/docs/api-key for more information.\n";

test("health and, on this machine, metrics are open; nothing else is", async () => {
  await using plane = openControlPlane();
  const without = { "x-api-key": undefined };
  const health = await plane.call("GET", "/health", undefined, without);
  expect(health).toMatchObject({ status: 204, text: "", headers: { "cache-control": "no-store" } });
  const metrics = await plane.call("GET", "/metrics", undefined, without);
  expect(metrics).toMatchObject({ status: 200, text: "firkin_sandboxes 0\n" });
  expect(metrics.headers["content-type"]).toBe("text/plain; version=0.0.4; charset=utf-8");
  for (const [method, url] of [
    ["GET", "/v2/sandboxes"],
    ["GET", "/sandboxes"],
    ["POST", "/sandboxes"],
    ["POST", "/v2/sandboxes"],
    ["GET", "/sandboxes/iaa1"],
    ["DELETE", "/sandboxes/iaa1"],
    ["POST", "/sandboxes/iaa1/connect"],
    ["POST", "/sandboxes/iaa1/timeout"],
    ["POST", "/sandboxes/iaa1/pause"],
    ["GET", "/sandboxes/metrics"],
    ["GET", "/benchmarks"],
    ["GET", "/openapi.json"],
  ] as const) {
    const missing = await plane.call(method, url, undefined, without);
    expect(missing).toMatchObject({ status: 401, body: { code: 401, message: expect.stringContaining(invalidKey) } });
    const wrong = await plane.call(method, url, undefined, { "x-api-key": `e2b_${"1".repeat(40)}` });
    expect(wrong).toMatchObject({ status: 401, body: { code: 401, message: expect.stringContaining(invalidKey) } });
  }
});

test("metrics need the key when the peer is not this machine", async () => {
  await using plane = openControlPlane();
  const from = async (remoteAddress: string, headers: Record<string, string> = {}) =>
    (await plane.app.inject({ url: "/metrics", remoteAddress, headers })).statusCode;
  expect(await from("192.168.1.7")).toBe(401);
  expect(await from("192.168.1.7", { "x-api-key": apiKey })).toBe(200);
  for (const loopback of ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"]) expect(await from(loopback)).toBe(200);
});

test("the key may come as a bearer token, in any spelling of the header", async () => {
  await using plane = openControlPlane();
  for (const headers of [
    { "x-api-key": undefined, authorization: `Bearer ${apiKey}` },
    { "x-api-key": undefined, "X-API-KEY": apiKey },
    { "x-api-key": undefined, "X-Api-Key": apiKey, host: "localhost:3000", origin: "http://LOCALHOST:3000" },
  ]) {
    expect(await plane.call("GET", "/v2/sandboxes", undefined, headers)).toMatchObject({ status: 200 });
  }
});

test("a page of another origin learns nothing", async () => {
  await using plane = openControlPlane();
  const headers = { "x-api-key": undefined, origin: "https://evil.example", "content-type": "text/plain" };
  const answer = await plane.call("POST", "/v2/sandboxes", '{"templateID":"base"}', headers);
  expect(answer).toMatchObject({ status: 403, body: { code: 403 } });
  const preflight = await plane.call("OPTIONS", "/v2/sandboxes", undefined, {
    ...headers,
    "access-control-request-method": "POST",
    "access-control-request-headers": "x-api-key",
  });
  expect(preflight.status).toBe(403);
  for (const seen of [answer, preflight]) expect(seen.headers).not.toHaveProperty("access-control-allow-origin");
  expect(plane.runtime.created).toEqual([]);
});

test.each([
  ["another site's", "https://evil.example"],
  ["one without an origin", "null"],
  ["a sandbox's own", "http://3000-iaa1.localhost:3000"],
  ["this machine's, on another port", "http://localhost:8080"],
  ["one that contains our name", "http://localhost:3000.evil.example"],
  ["no web page's", "file://localhost:3000"],
])("a page that is %s may not use the API, even with the key; nothing happens", async (_name, origin) => {
  await using plane = openControlPlane();
  const headers = { origin, host: "localhost:3000", "content-type": "application/json" };
  for (const [method, url] of [
    ["POST", "/v2/sandboxes"],
    ["GET", "/health"],
    ["GET", "/metrics"],
  ] as const) {
    const answer = await plane.call(method, url, method === "POST" ? { templateID: "base" } : undefined, headers);
    expect(answer).toMatchObject({ status: 403, body: { code: 403 } });
    expect(answer.headers).not.toHaveProperty("access-control-allow-origin");
  }
  expect(plane.runtime.created).toEqual([]);
});

test("a foreign name with this machine's address is refused, with or without the key", async () => {
  await using plane = openControlPlane();
  for (const url of ["/health", "/metrics", "/v2/sandboxes", "/nowhere", "/files"]) {
    const answer = await plane.call("GET", url, undefined, { host: "rebound.example:3000" });
    expect(answer).toMatchObject({ status: 421, body: { code: 421 } });
  }
});

test.each([
  ["localhost:3000", true],
  ["LOCALHOST", true],
  ["localhost.:3000", true],
  ["api.localhost", true],
  ["127.0.0.1:3000", true],
  ["192.168.1.2", true],
  ["[::1]:3000", true],
  ["my.machine:3000", true],
  ["49983-iaa1.anything.example", true],
  ["3000-iaa1-6532622b.localhost", true],
  [undefined, true],
  ["", false],
  ["evil.example", false],
  ["localhost.evil.example", false],
  ["127.0.0.1.evil.example", false],
  ["[evil]", false],
  ["x49983-iaa1.evil.example", false],
  ["my.machine.evil", false],
])("host %s is known: %s", (host, expected) => {
  expect(isKnownHost(host, new Set(["my.machine"]))).toBe(expected);
});

test("a request with half of a sandbox's headers is refused in plain text", async () => {
  await using plane = openControlPlane();
  const answer = await plane.call("GET", "/files", undefined, { "e2b-sandbox-id": "iaa1" });
  expect(answer).toMatchObject({ status: 400, text: "missing header" });
  expect(answer.headers["content-type"]).toBe("text/plain; charset=utf-8");
  const nameless = await plane.call("GET", "/files");
  expect(nameless).toMatchObject({ status: 401, body: { code: 401 } });
});

test("the data plane's routes join the same port and keep to their plane", async () => {
  await using plane = openControlPlane({
    registerDataPlane: async (app) => {
      routesBelongTo(app, "data");
      app.get("/health", async () => "envd");
      app.get("/boom", async () => {
        throw new DomainError("disk_pressure", "the disk is full");
      });
    },
  });
  const inside = { "x-api-key": undefined, "e2b-sandbox-id": "iaa1", "e2b-sandbox-port": "49983" };
  expect(await plane.call("GET", "/health")).toMatchObject({ status: 204 });
  expect(await plane.call("GET", "/health", undefined, inside)).toMatchObject({ status: 200, text: "envd" });
  expect(await plane.call("GET", "/boom", undefined, inside)).toMatchObject({ status: 507, body: { code: 507 } });
  expect(await plane.call("GET", "/v2/sandboxes", undefined, { ...inside, "x-api-key": apiKey })).toMatchObject({
    status: 404,
  });
  expect((await plane.call("GET", "/openapi.json")).text).not.toContain("/boom");
});

test.each([
  ["invalid_argument", 400],
  ["unauthenticated", 401],
  ["permission_denied", 403],
  ["not_found", 404],
  ["already_exists", 409],
  ["idempotency_mismatch", 422],
  ["invalid_state", 409],
  ["failed_precondition", 400],
  ["capacity_exhausted", 429],
  ["disk_pressure", 507],
  ["not_ready", 503],
  ["deadline_exceeded", 504],
  ["unsupported", 501],
  ["machine_failed", 500],
  ["cancelled", 499],
  ["internal", 500],
] satisfies [ErrorCode, number][])("%s is %i, and the message is kept", async (code, status) => {
  await using plane = openControlPlane();
  plane.runtime.nextError = new DomainError(code, "because");
  const answer = await plane.call("GET", "/sandboxes/iaa1");
  expect(answer).toMatchObject({ status, body: { code: status, message: "because" } });
  expect(plane.errors).toHaveLength(status === 500 ? 1 : 0);
});

test("an unexpected error is logged once, and the client learns nothing of it", async () => {
  await using plane = openControlPlane();
  for (const error of [new TypeError("secret"), Object.assign(new Error("secret"), { statusCode: 418 }), "secret"]) {
    plane.errors.length = 0;
    plane.runtime.nextError = error;
    const answer = await plane.call("GET", "/v2/sandboxes");
    expect(answer).toMatchObject({ status: 500, body: { code: 500, error_code: "internal_server_error" } });
    expect(answer.text).not.toContain("secret");
    expect(plane.errors).toMatchObject([{ reqId: expect.any(String), method: "GET", url: "/v2/sandboxes" }]);
    expect(JSON.stringify(plane.errors)).toContain("secret");
  }
});

test.each([
  ["malformed JSON", "{", "application/json", 400, "validation error: the body is not valid JSON"],
  ["a poisoned prototype", '{"__proto__":{}}', "application/json", 400, "validation error: the body is not valid JSON"],
  ["no JSON at all", "templateID=base", "application/x-www-form-urlencoded", 415, "the body must be JSON"],
  ["plain text", "{}", "text/plain", 415, "the body must be JSON"],
  ["nothing", "", "application/json", 400, "validation error: body: "],
  ["too much", JSON.stringify({ templateID: "x".repeat(2 ** 20) }), "application/json", 413, "the body is too large"],
  ["null", "null", "application/json", 400, "validation error: body: "],
])("a body that is %s is refused", async (_name, body, type, status, message) => {
  await using plane = openControlPlane();
  const answer = await plane.call("POST", "/v2/sandboxes", body, { "content-type": type });
  expect(answer).toMatchObject({ status, body: { code: status, message: expect.stringContaining(message) } });
  expect(plane.errors).toEqual([]);
});

test("an unknown route and an undecodable path are told apart", async () => {
  await using plane = openControlPlane();
  expect(await plane.call("GET", "/nowhere?x=1")).toMatchObject({
    status: 404,
    body: { code: 404, message: "There is no GET /nowhere" },
  });
  expect(await plane.call("PATCH", "/v2/sandboxes")).toMatchObject({ status: 404, body: { code: 404 } });
  expect(await plane.call("GET", "/sandboxes/%zz")).toMatchObject({ status: 400, body: { code: 400 } });
  expect(await plane.call("GET", `/sandboxes/${"a".repeat(300)}`)).toMatchObject({ body: { code: 414 } });
});

test.each([
  ["GET", "/nodes"],
  ["POST", "/v2/templates"],
  ["POST", "/templates"],
  ["POST", "/templates/abc/builds/b"],
  ["PUT", "/volumecontent/v/file"],
  ["GET", "/volumes"],
  ["GET", "/secrets"],
  ["POST", "/admin/teams/t/sandboxes/kill"],
])("%s %s says that it is not served yet", async (method, url) => {
  await using plane = openControlPlane();
  const answer = await plane.call(method, url, method === "GET" ? undefined : "bytes", {
    ...(method === "GET" ? {} : { "content-type": "application/octet-stream" }),
  });
  expect(answer).toMatchObject({
    status: 501,
    body: { code: 501, message: expect.stringContaining("not supported by this daemon yet") },
  });
});

test("the daemon describes itself", async () => {
  await using plane = openControlPlane();
  expect((await plane.call("GET", "/benchmarks")).body).toEqual({
    engine: "qemu",
    engineVersion: "1",
    acceleration: "none",
    benchmarks: [
      {
        span: "kill_delete",
        scenario: "killed",
        engine: "qemu",
        acceleration: "none",
        n: 7,
        p50Ms: 1,
        p90Ms: 2,
        p95Ms: 3,
        p99Ms: 4,
      },
    ],
  });
  const { body } = await plane.call("GET", "/openapi.json");
  expect(body).toMatchObject({
    openapi: "3.1.0",
    components: { schemas: { Sandbox: { required: expect.arrayContaining(["sandboxID", "envdAccessToken"]) } } },
    paths: { "/health": { get: { responses: { 204: {} } } } },
  });
  const { schemas } = (body as { components: { schemas: object } }).components;
  const used = [...JSON.stringify(body).matchAll(/"#\/components\/schemas\/(\w+)"/g)].map((match) => match[1]);
  expect(Object.keys(schemas).sort()).toEqual([...new Set(used)].sort());
  expect(Object.keys(schemas)).toContain("NewSandboxV2");
});

test("the capacity is in E2B's units, and the latency of one sandbox is read by its id", async () => {
  await using plane = openControlPlane();
  const use = { active: 3, warm: 1, limit: 100 };
  expect((await plane.call("GET", "/capacity")).body).toEqual({
    engine: "qemu",
    engineVersion: "1",
    acceleration: "none",
    sandboxes: use,
    cpuCount: use,
    memoryMB: use,
    diskSizeMB: use,
    warmPool: { ready: 1, warming: 0, leaving: 0 },
    pausedInMemory: 0,
    waitingForDisk: 0,
    waiting: 0,
  });
  expect((await plane.call("GET", "/health", undefined, { accept: "application/json" })).body).toMatchObject({
    waitingForDisk: 0,
  });
  const { body } = await plane.call("POST", "/v2/sandboxes", { templateID: "base" });
  const { sandboxID } = body as { sandboxID: string };
  const facts = { span: "ready_probe", scenario: "create", durationMs: 1.5 } as const;
  plane.runtime.latency.push({ ...facts, engine: "qemu", acceleration: "none", sandboxId: sandboxID, atMs: 0 });
  expect((await plane.call("GET", `/sandboxes/${sandboxID}/latency`)).body).toEqual({
    samples: [{ ...facts, at: "1970-01-01T00:00:00.000Z" }],
  });
  expect((await plane.call("GET", "/sandboxes/iaanobody/latency")).status).toBe(404);
});
