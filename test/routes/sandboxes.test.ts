import { expect, test } from "vitest";
import type { SandboxDetail } from "../../src/e2b/schemas.ts";
import { DomainError } from "../../src/errors.ts";
import { openControlPlane } from "../support/daemon/control-plane.ts";

const unknown = (id: string) => ({
  code: 404,
  message: `Sandbox "${id}" doesn't exist or you don't have access to it`,
});

async function create(plane: ReturnType<typeof openControlPlane>, body: object = {}): Promise<string> {
  const answer = await plane.call("POST", "/v2/sandboxes", { templateID: "base", ...body });
  expect(answer).toMatchObject({ status: 201 });
  return (answer.body as { sandboxID: string }).sandboxID;
}

test("create answers with what a client needs to go on", async () => {
  await using plane = openControlPlane();
  const { status, body } = await plane.call("POST", "/v2/sandboxes", { templateID: "base" });
  expect(status).toBe(201);
  const { sandboxID } = body as { sandboxID: string };
  expect(body).toEqual({
    templateID: "rki5dems9wqfm4r03t7g",
    sandboxID: expect.stringMatching(/^iaa[a-z0-9]{18}$/),
    alias: "base",
    clientID: "6532622b",
    envdVersion: "0.6.13",
    envdAccessToken: `token-of-${sandboxID}`,
    domain: "localhost:80",
  });
});

test("create passes on everything it was asked for", async () => {
  await using plane = openControlPlane();
  await create(plane, { timeout: 60, metadata: { job: "a" }, envVars: { A: "1" }, templateID: "local/Base:default" });
  expect(plane.runtime.created).toEqual([
    {
      template: { name: "base", tag: "default" },
      timeoutMs: 60_000,
      metadata: { job: "a" },
      envs: { A: "1" },
      allowInternetAccess: true,
      ingress: { allowPublicTraffic: true, maskRequestHost: null },
      lifecycle: { onTimeout: "kill", keepMemory: true, autoResume: false },
    },
  ]);
});

test("each generation of the create route has its own default time-out", async () => {
  await using plane = openControlPlane();
  await plane.call("POST", "/sandboxes", { templateID: "base" });
  await plane.call("POST", "/v2/sandboxes", { templateID: "base" });
  expect(plane.runtime.created.map(({ timeoutMs }) => timeoutMs)).toEqual([15_000, 300_000]);
});

test.each([
  ["/sandboxes", { secure: true, autoPause: false, allow_internet_access: true, timeout: 300 }],
  ["/sandboxes", { secure: false }],
  ["/v2/sandboxes", { autoPauseMemory: true, autoResume: { enabled: false }, network: { allowPublicTraffic: true } }],
  ["/v2/sandboxes", { network: { allowOut: [], denyOut: [], rules: {}, httpsPorts: [] }, volumeMounts: [], mcp: {} }],
  ["/v2/sandboxes", { mcp: { browserbase: { apiKey: "x" } } }],
  ["/v2/sandboxes", { mcp: null, iam: { tokens: {} }, metadata: null, envVars: null, network: null, timeout: null }],
  ["/v2/sandboxes", { somethingNewer: true }],
])("default values that SDKs send pass: %s %j", async (url, options) => {
  await using plane = openControlPlane();
  expect(await plane.call("POST", url, { templateID: "base", ...options })).toMatchObject({ status: 201 });
});

test.each([
  ["volumeMounts", { volumeMounts: [{ name: "v", path: "/v" }] }],
  ["iam", { iam: { tokens: { a: { audience: "x", tokenType: "JWT-SVID" } } } }],
])("an option that nothing honours yet is refused by name: %s", async (option, body) => {
  await using plane = openControlPlane();
  for (const url of ["/sandboxes", "/v2/sandboxes"]) {
    const answer = await plane.call("POST", url, { templateID: "base", ...body });
    expect(answer).toMatchObject({ status: 501, body: { code: 501 } });
    expect(answer.body).toHaveProperty("message", expect.stringContaining(`The option ${option} is not supported: `));
  }
  expect(plane.runtime.created).toEqual([]);
});

test.each([
  ["/v2/sandboxes", { timeout: 0 }, "Timeout must be greater than 0"],
  ["/sandboxes", { timeout: -1 }, "Timeout must be greater than 0"],
  ["/v2/sandboxes", { timeout: 86_401 }, "Timeout cannot be greater than 24 hours"],
  ["/v2/sandboxes", { templateID: "a:b:c" }, "Invalid template reference: 'a:b:c': write it as team/alias:tag"],
  ["/v2/sandboxes", { autoPauseMemory: false }, "autoPauseMemory: false needs autoPause: true"],
  [
    "/v2/sandboxes",
    { autoPause: true, autoPauseMemory: false, autoResume: { enabled: true } },
    "autoPauseMemory: false cannot be combined with autoResume",
  ],
  ["/sandboxes", { network: { allowPublicTraffic: false } }, "network.allowPublicTraffic: false needs secure: true"],
])("a create that makes no sense is refused: %s %j", async (url, body, message) => {
  await using plane = openControlPlane();
  const answer = await plane.call("POST", url, { templateID: "base", ...body });
  expect(answer).toMatchObject({ status: 400, body: { code: 400, message } });
});

test.each([
  [{ templateID: 1 }, "body/templateID: Invalid input: expected string, received number"],
  [{ templateID: "base", timeout: "60" }, "body/timeout: Invalid input: expected number, received string"],
  [{ templateID: "base", timeout: 1.5 }, "body/timeout: "],
  [{ templateID: "base", timeout: 2 ** 31 }, "body/timeout: "],
  [{ templateID: "base", metadata: { a: 1 } }, "body/metadata/a: "],
  [{ templateID: "base", metadata: [] }, "body/metadata: "],
  [
    { templateID: "base", envVars: { "A=B": "1" } },
    "body/envVars/A=B: a name must not be empty and must have no '=' and no NUL",
  ],
  [{ templateID: "base", envVars: { A: "\0" } }, "body/envVars/A: must have no NUL"],
  [{ templateID: "base", network: { allowOut: "x" } }, "body/network/allowOut: "],
  [{}, "body/templateID: "],
  [[], "body: "],
])("a create of wrong types says where: %j", async (body, message) => {
  await using plane = openControlPlane();
  const answer = await plane.call("POST", "/v2/sandboxes", body);
  expect(answer).toMatchObject({ status: 400, body: { code: 400 } });
  expect(answer.body).toHaveProperty("message", expect.stringContaining(`validation error: ${message}`));
});

test("an unknown template or tag is not found", async () => {
  await using plane = openControlPlane();
  for (const [templateID, message] of [
    ["nope", "template 'nope' not found"],
    ["acme/base", "template 'acme/base' not found"],
    ["base:v9", "tag 'v9' does not exist for template 'base'"],
  ]) {
    const answer = await plane.call("POST", "/v2/sandboxes", { templateID });
    expect(answer).toMatchObject({ status: 404, body: { code: 404, message } });
  }
});

test("no room is 429, a stopping daemon 503, and both say when to come again", async () => {
  await using plane = openControlPlane();
  plane.runtime.nextError = new DomainError("capacity_exhausted", "you have reached the maximum number of sandboxes");
  expect(await plane.call("POST", "/v2/sandboxes", { templateID: "base" })).toMatchObject({
    status: 429,
    headers: { "retry-after": "1" },
    body: { code: 429, error_code: "sandbox_capacity_unavailable" },
  });
  plane.runtime.nextError = new DomainError("not_ready", "the daemon is stopping");
  expect(await plane.call("POST", "/v2/sandboxes", { templateID: "base" })).toMatchObject({
    status: 503,
    headers: { "retry-after": "1" },
    body: { code: 503, message: "the daemon is stopping" },
  });
});

test("a sandbox that does not come up is told apart from other failures", async () => {
  await using plane = openControlPlane();
  const failure = new DomainError("machine_failed", "the machine died");
  plane.runtime.nextError = failure;
  const created = await plane.call("POST", "/v2/sandboxes", { templateID: "base" });
  expect(created).toMatchObject({ status: 500, body: { code: 500, error_code: "sandbox_create_failed" } });
  plane.runtime.nextError = failure;
  const listed = await plane.call("GET", "/v2/sandboxes");
  expect(listed).toMatchObject({ status: 500, body: { code: 500, error_code: "internal_server_error" } });
});

test("get shows everything, kill takes it away", async () => {
  await using plane = openControlPlane();
  const id = await create(plane, { metadata: { job: "a" }, timeout: 60 });
  expect(await plane.call("GET", `/sandboxes/${id}`)).toMatchObject({ status: 200 });
  expect((await plane.call("GET", `/sandboxes/${id}`)).body).toEqual({
    templateID: "rki5dems9wqfm4r03t7g",
    alias: "base",
    sandboxID: id,
    clientID: "6532622b",
    startedAt: "2026-01-01T00:00:00.000Z",
    endAt: "2026-01-01T00:01:00.000Z",
    cpuCount: 2,
    memoryMB: 512,
    diskSizeMB: 4096,
    metadata: { job: "a" },
    state: "running",
    envdVersion: "0.6.13",
    envdAccessToken: `token-of-${id}`,
    allowInternetAccess: true,
    domain: "localhost:80",
    network: { allowPublicTraffic: true },
    lifecycle: { autoResume: false, onTimeout: "kill" },
    volumeMounts: [],
  });
  expect(await plane.call("DELETE", `/sandboxes/${id}`)).toMatchObject({ status: 204, text: "" });
  expect(await plane.call("DELETE", `/sandboxes/${id}`)).toMatchObject({ status: 404, body: unknown(id) });
  expect(await plane.call("GET", `/sandboxes/${id}`)).toMatchObject({ status: 404, body: unknown(id) });
});

test("a resume may set environment variables, and says which are none", async () => {
  await using plane = openControlPlane();
  const id = await create(plane, { envVars: { A: "1", B: "1" } });
  const post = (what: string, body?: object) => plane.call("POST", `/sandboxes/${id}/${what}`, body);
  await post("pause");
  expect(await post("resume", { envVars: { A: 2 } })).toMatchObject({ status: 400 });
  expect(await post("resume", { envVars: { A: "2" } })).toMatchObject({ status: 201 });
  expect(plane.runtime.registry.get(id).record.envs).toEqual({ A: "2", B: "1" });
});

test("clients may do without the memory, of a pause, a resume, a connect and at the end of a sandbox's time", async () => {
  await using plane = openControlPlane();
  const id = await create(plane, { autoPause: true, autoPauseMemory: false });
  expect(plane.runtime.created[0]?.lifecycle).toEqual({ onTimeout: "pause", keepMemory: false, autoResume: false });
  const post = async (what: string, body: object) =>
    (await plane.call("POST", `/sandboxes/${id}/${what}`, body)).status;
  const pauseMode = async () => ((await plane.call("GET", `/sandboxes/${id}`)).body as SandboxDetail).pauseMode;
  expect(await pauseMode()).toBeUndefined();
  expect(await post("pause", { memory: false })).toBe(204);
  expect(await pauseMode()).toBe("filesystem");
  expect(await post("resume", { memory: false })).toBe(201);
  expect(await post("connect", { timeout: 1, memory: false })).toBe(200);
  expect(await post("pause", { memory: true })).toBe(204);
  expect(await pauseMode()).toBe("full");
  expect(await post("resume", {})).toBe(201);
  expect(await post("pause", { memory: true, requireHealthyGuest: true })).toBe(204);
  const [without, complete] = [{ memory: false }, { memory: true }];
  const strict = { memory: true, requireAnswer: true };
  expect(plane.runtime.memoryOptions).toEqual([without, without, without, complete, complete, strict]);
});

test("a sandbox is stopped with a deadline, which has bounds", async () => {
  await using plane = openControlPlane();
  const { body } = await plane.call("POST", "/v2/sandboxes", { templateID: "base" });
  const { sandboxID: id } = body as { sandboxID: string };
  for (const deadlineMs of [-1, 600_001, "soon"]) {
    expect(await plane.call("POST", `/sandboxes/${id}/stop`, { deadlineMs })).toMatchObject({ status: 400 });
  }
  expect(await plane.call("POST", `/sandboxes/${id}/stop`, { deadlineMs: 50 })).toMatchObject({
    status: 204,
    text: "",
  });
  expect(await plane.call("POST", `/sandboxes/${id}/stop`)).toMatchObject({ status: 404, body: unknown(id) });
  expect(plane.runtime.stops).toEqual([50]);
});

test("ids of the older form work, others are refused", async () => {
  await using plane = openControlPlane();
  const id = await create(plane);
  expect(await plane.call("GET", `/sandboxes/${id}-6532622b`)).toMatchObject({ status: 200, body: { sandboxID: id } });
  for (const bad of ["a-b-c", "ABC", "a%2Fb", "%00"]) {
    expect(await plane.call("GET", `/sandboxes/${bad}`)).toMatchObject({
      status: 400,
      body: { code: 400, message: "Invalid sandbox ID" },
    });
  }
});

const endOf = async (plane: ReturnType<typeof openControlPlane>, id: string) =>
  ((await plane.call("GET", `/sandboxes/${id}`)).body as { endAt: string }).endAt.slice(11, 19);

test("connect extends and never shortens; a paused sandbox comes back with 201", async () => {
  await using plane = openControlPlane();
  const id = await create(plane, { timeout: 100 });
  expect(await plane.call("POST", `/sandboxes/${id}/connect`, { timeout: 10 })).toMatchObject({ status: 200 });
  expect(await endOf(plane, id)).toBe("00:01:40");
  const { body } = await plane.call("POST", `/v2/sandboxes/${id}/connect`, { timeout: 200 });
  expect(body).toMatchObject({ sandboxID: id, envdAccessToken: `token-of-${id}` });
  expect(await endOf(plane, id)).toBe("00:03:20");
  plane.runtime.pause(id);
  expect(await plane.call("POST", `/v2/sandboxes/${id}/connect`)).toMatchObject({ status: 201 });
  expect(await endOf(plane, id)).toBe("00:05:00");
});

test("pause and resume answer in E2B's words", async () => {
  await using plane = openControlPlane();
  const id = await create(plane, { timeout: 100 });
  const pause = (body?: object) => plane.call("POST", `/sandboxes/${id}/pause`, body);
  const resume = (body?: object) => plane.call("POST", `/sandboxes/${id}/resume`, body);
  expect(await pause({ memory: true })).toMatchObject({ status: 204, text: "" });
  expect(await pause()).toMatchObject({
    status: 409,
    body: { code: 409, message: `Error pausing sandbox - sandbox '${id}' is already paused` },
  });
  expect((await plane.call("GET", `/sandboxes/${id}`)).body).toMatchObject({ state: "paused" });
  expect(await resume({ timeout: 60, autoPause: true })).toMatchObject({ status: 201, body: { sandboxID: id } });
  expect(await endOf(plane, id)).toBe("00:01:00");
  expect(await resume()).toMatchObject({
    status: 409,
    body: { code: 409, message: `Sandbox ${id} is already running` },
  });
  expect(await pause({ reason: "exited" })).toMatchObject({ status: 204 });
  expect(plane.runtime.pauseReasons).toEqual(["stopped", "exited"]);
});

test("what becomes of a sandbox at the end of its time is kept and shown", async () => {
  await using plane = openControlPlane();
  const lifecycleOf = async (options: object) => {
    const id = await create(plane, options);
    return ((await plane.call("GET", `/sandboxes/${id}`)).body as { lifecycle: unknown }).lifecycle;
  };
  expect(await lifecycleOf({})).toEqual({ onTimeout: "kill", autoResume: false });
  expect(await lifecycleOf({ autoPause: true })).toEqual({ onTimeout: "pause", autoResume: false });
  const both = { autoPause: true, autoResume: { enabled: true } };
  expect(await lifecycleOf(both)).toEqual({ onTimeout: "pause", autoResume: true });
});

test.each([
  ["/sandboxes/iaa1/pause", undefined, 404],
  ["/sandboxes/iaa1/pause", { reason: "bored" }, 400],
  ["/sandboxes/iaa1/resume", { timeout: 1 }, 404],
  ["/sandboxes/iaa1/resume", { timeout: -1 }, 400],
  ["/sandboxes/iaa1/resume", { timeout: 1e9 }, 400],
  ["/sandboxes/iaa1/connect", { timeout: 1 }, 404],
  ["/v2/sandboxes/iaa1/connect", undefined, 404],
  ["/sandboxes/iaa1/connect", undefined, 400],
  ["/sandboxes/iaa1/connect", {}, 400],
  ["/v2/sandboxes/iaa1/connect", { timeout: -1 }, 400],
  ["/v2/sandboxes/iaa1/connect", { timeout: 86_401 }, 400],
  ["/v2/sandboxes/a-b-c/connect", {}, 400],
])("connect refused: %s %j is %i", async (url, body, status) => {
  await using plane = openControlPlane();
  expect(await plane.call("POST", url, body)).toMatchObject({ status, body: { code: status } });
});

test("a time-out may shorten, is clamped, and zero ends the sandbox", async () => {
  await using plane = openControlPlane();
  const id = await create(plane, { timeout: 100 });
  expect(await plane.call("POST", `/sandboxes/${id}/timeout`, { timeout: 10 })).toMatchObject({
    status: 204,
    text: "",
  });
  expect(await endOf(plane, id)).toBe("00:00:10");
  await plane.call("POST", `/sandboxes/${id}/timeout`, { timeout: 2_000_000_000 });
  expect((await plane.call("GET", `/sandboxes/${id}`)).body).toMatchObject({ endAt: "2026-01-02T00:00:00.000Z" });
  expect(await plane.call("POST", `/sandboxes/${id}/timeout`, { timeout: -1 })).toMatchObject({ status: 400 });
  expect(await plane.call("POST", `/sandboxes/${id}/timeout`)).toMatchObject({ status: 400 });
  expect(await plane.call("POST", `/sandboxes/${id}/timeout`, { timeout: 0 })).toMatchObject({ status: 204 });
  expect(await plane.call("POST", `/sandboxes/${id}/timeout`, { timeout: 1 })).toMatchObject({ body: unknown(id) });
});

test("a refresh extends by at least 15 seconds and at most an hour", async () => {
  await using plane = openControlPlane();
  const id = await create(plane, { timeout: 1 });
  expect(await plane.call("POST", `/sandboxes/${id}/refreshes`)).toMatchObject({ status: 204, text: "" });
  expect(await endOf(plane, id)).toBe("00:00:15");
  await plane.call("POST", `/sandboxes/${id}/refreshes`, { duration: 3600 });
  await plane.call("POST", `/sandboxes/${id}/refreshes`, { duration: 60 });
  expect(await endOf(plane, id)).toBe("01:00:00");
  for (const duration of [-1, 3601, "1"]) {
    expect(await plane.call("POST", `/sandboxes/${id}/refreshes`, { duration })).toMatchObject({ status: 400 });
  }
  expect(await plane.call("POST", "/sandboxes/iaa1/refreshes", {})).toMatchObject({ status: 404 });
});

test("the network is switched, replaced as a whole, and finer rules are refused by name", async () => {
  await using plane = openControlPlane();
  const id = await create(plane, { network: { denyOut: ["0.0.0.0/0"] } });
  const put = (body?: object) => plane.call("PUT", `/sandboxes/${id}/network`, body);
  const shown = async () => (await plane.call("GET", `/sandboxes/${id}`)).body;
  const cut = { allowInternetAccess: false, network: { allowPublicTraffic: true, denyOut: ["0.0.0.0/0"] } };
  const open = { allowInternetAccess: true, network: { allowPublicTraffic: true } };
  expect(await shown()).toMatchObject(cut);
  expect(await put({})).toMatchObject({ status: 204, text: "" });
  expect(await shown()).toMatchObject(open);
  for (const [body, after] of [
    [{ allow_internet_access: false }, cut],
    [undefined, open],
    [{ denyOut: ["0.0.0.0/0"], allow_internet_access: true }, cut],
  ] as const) {
    expect((await put(body)).status).toBe(204);
    expect(await shown()).toMatchObject(after);
  }
  expect(await put({ allowOut: ["1.1.1.1"] })).toMatchObject({
    status: 400,
    body: { code: 400, message: expect.stringContaining("network.allowOut") },
  });
  expect(await put({ denyOut: "0.0.0.0/0" })).toMatchObject({ status: 400 });
  expect(await shown()).toMatchObject(cut);
  plane.runtime.pause(id);
  expect(await put({})).toMatchObject({ status: 404 });
  expect(await plane.call("PUT", "/sandboxes/iaa1/network", {})).toMatchObject({ status: 404 });
});

test.each([
  ["allowOut", { allowOut: ["1.1.1.1"] }],
  ["denyOut", { denyOut: ["1.1.1.1"] }],
  ["rules", { rules: { "example.com": [] } }],
  ["egressProxy", { egressProxy: { address: "a:1" } }],
  ["httpsPorts", { httpsPorts: [8443] }],
  ["maskRequestHost", { maskRequestHost: "a b" }],
])("a create with network.%s that cannot be honoured is refused by name", async (option, network) => {
  await using plane = openControlPlane();
  const answer = await plane.call("POST", "/v2/sandboxes", { templateID: "base", network });
  expect(answer).toMatchObject({
    status: 400,
    body: { code: 400, message: expect.stringContaining(`network.${option}`) },
  });
  expect(plane.runtime.created).toEqual([]);
});

test("a private sandbox has a traffic token, which connect gives again; its ports are below the name it was asked by", async () => {
  await using plane = openControlPlane();
  const body = { templateID: "base", network: { allowPublicTraffic: false, maskRequestHost: "localhost" } };
  const created = await plane.call("POST", "/v2/sandboxes", body, { host: "127.0.0.1:3000" });
  const sandbox = created.body as { sandboxID: string; trafficAccessToken: string };
  expect(created).toMatchObject({ status: 201, body: { domain: "localhost:3000" } });
  expect(sandbox.trafficAccessToken).toMatch(/^[0-9a-f]{64}$/);
  const connected = await plane.call("POST", `/v2/sandboxes/${sandbox.sandboxID}/connect`, {});
  expect(connected.body).toMatchObject({ trafficAccessToken: sandbox.trafficAccessToken });
  expect((await plane.call("GET", `/sandboxes/${sandbox.sandboxID}`)).body).toMatchObject({ network: body.network });
  const open = await plane.call("POST", "/v2/sandboxes", { templateID: "base" });
  expect(open.body).not.toHaveProperty("trafficAccessToken");
});
