import { expect, test } from "vitest";
import { openControlPlane } from "../support/daemon/control-plane.ts";

type Plane = ReturnType<typeof openControlPlane>;

async function create(plane: Plane, metadata: Record<string, string> = {}): Promise<string> {
  const { body } = await plane.call("POST", "/v2/sandboxes", { templateID: "base", metadata });
  plane.runtime.nowMs += 1000;
  return (body as { sandboxID: string }).sandboxID;
}

async function idsOf(plane: Plane, url: string): Promise<string[]> {
  const answer = await plane.call("GET", url);
  expect(answer).toMatchObject({ status: 200 });
  return (answer.body as { sandboxID: string }[]).map(({ sandboxID }) => sandboxID);
}

test("a listing has a row for every sandbox, the newest first", async () => {
  await using plane = openControlPlane();
  const first = await create(plane, { job: "a" });
  const second = await create(plane);
  expect(await idsOf(plane, "/v2/sandboxes")).toEqual([second, first]);
  expect(await idsOf(plane, "/v2/sandboxes?order=asc")).toEqual([first, second]);
  const { body } = await plane.call("GET", "/v2/sandboxes?order=asc&limit=1");
  expect(body).toEqual([
    {
      templateID: "rki5dems9wqfm4r03t7g",
      alias: "base",
      sandboxID: first,
      clientID: "6532622b",
      startedAt: "2026-01-01T00:00:00.000Z",
      endAt: "2026-01-01T00:05:00.000Z",
      cpuCount: 2,
      memoryMB: 512,
      diskSizeMB: 4096,
      metadata: { job: "a" },
      state: "running",
      envdVersion: "0.6.13",
      volumeMounts: [],
    },
  ]);
});

test("a row is never older than its sandbox", async () => {
  await using plane = openControlPlane();
  const id = await create(plane);
  await plane.call("GET", "/v2/sandboxes");
  await plane.call("POST", `/sandboxes/${id}/timeout`, { timeout: 3600 });
  const { body } = await plane.call("GET", "/v2/sandboxes");
  expect(body).toMatchObject([{ endAt: "2026-01-01T01:00:01.000Z" }]);
  plane.runtime.pause(id);
  expect((await plane.call("GET", "/v2/sandboxes")).body).toMatchObject([{ state: "paused" }]);
});

test("states may be joined or repeated; the total counts running ones and only when they are asked for", async () => {
  await using plane = openControlPlane();
  const paused = await create(plane);
  const running = await create(plane);
  plane.runtime.pause(paused);
  expect(await idsOf(plane, "/v2/sandboxes?state=paused")).toEqual([paused]);
  expect(await idsOf(plane, "/v2/sandboxes?state=running")).toEqual([running]);
  for (const both of ["state=running,paused", "state=running&state=paused", "", "state=running%2Cpaused"]) {
    const answer = await plane.call("GET", `/v2/sandboxes?${both}`);
    expect(answer).toMatchObject({ status: 200, headers: { "x-total-running": "1" } });
    expect(answer.body).toHaveLength(2);
  }
  const { headers } = await plane.call("GET", "/v2/sandboxes?state=paused");
  expect(headers).not.toHaveProperty("x-total-running");
});

test("pages lead through everything once, in either order", async () => {
  await using plane = openControlPlane();
  const ids: string[] = [];
  for (let at = 0; at < 7; at += 1) ids.push(await create(plane));
  for (const order of ["asc", "desc"]) {
    const seen: string[] = [];
    let token: unknown = "";
    do {
      const answer = await plane.call("GET", `/v2/sandboxes?limit=3&order=${order}&nextToken=${token}`);
      expect(answer).toMatchObject({ status: 200, headers: { "x-total-running": "7" } });
      seen.push(...(answer.body as { sandboxID: string }[]).map(({ sandboxID }) => sandboxID));
      token = answer.headers["x-next-token"];
    } while (token !== undefined);
    expect(seen).toEqual(order === "asc" ? ids : ids.toReversed());
  }
});

test("a token of one order does not lead through the other", async () => {
  await using plane = openControlPlane();
  await create(plane);
  await create(plane);
  const { headers } = await plane.call("GET", "/v2/sandboxes?limit=1");
  const answer = await plane.call("GET", `/v2/sandboxes?limit=1&order=asc&nextToken=${headers["x-next-token"]}`);
  expect(answer).toMatchObject({ status: 400, body: { code: 400, message: "Invalid next token" } });
});

test("a page has at most 100 rows, also when more are asked for", async () => {
  await using plane = openControlPlane();
  for (let at = 0; at < 101; at += 1) await create(plane);
  const answer = await plane.call("GET", "/v2/sandboxes?limit=5000");
  expect(answer.body).toHaveLength(100);
  expect(answer.headers).toHaveProperty("x-next-token");
  expect(await idsOf(plane, "/sandboxes")).toHaveLength(101);
});

test("the metadata filter, three times escaped, finds the sandboxes with every pair", async () => {
  await using plane = openControlPlane();
  const one = await create(plane, { "k 1": "v&1", other: "x" });
  await create(plane, { "k 1": "v" });
  for (const path of ["/v2/sandboxes", "/sandboxes"]) {
    expect(await idsOf(plane, `${path}?metadata=k%2525201%3Dv%2525261`)).toEqual([one]);
    expect(await idsOf(plane, `${path}?metadata=k%2525201%3Dv%2525261%26other%3Dx`)).toEqual([one]);
    expect(await idsOf(plane, `${path}?metadata=k%2525201%3Dv%2525261%26other%3Dy`)).toEqual([]);
    expect(await idsOf(plane, `${path}?metadata=`)).toHaveLength(2);
    expect(await plane.call("GET", `${path}?metadata=a`)).toMatchObject({ status: 400, body: { code: 400 } });
  }
});

test("the older listing shows running sandboxes only", async () => {
  await using plane = openControlPlane();
  const paused = await create(plane);
  const running = await create(plane);
  plane.runtime.pause(paused);
  expect(await idsOf(plane, "/sandboxes")).toEqual([running]);
});

test("startedAfter includes its moment, to the microsecond", async () => {
  await using plane = openControlPlane();
  const first = await create(plane);
  const second = await create(plane);
  const after = async (text: string) => idsOf(plane, `/v2/sandboxes?startedAfter=${encodeURIComponent(text)}`);
  expect(await after("2026-01-01T00:00:01Z")).toEqual([second]);
  expect(await after("2026-01-01T02:00:00.000000999+02:00")).toEqual([second, first]);
  expect(await after("2026-01-01T00:00:00.000001Z")).toEqual([second]);
  expect(await after("2026-01-01T00:00:01.001Z")).toEqual([]);
});

test("the template filter takes an id or an alias", async () => {
  await using plane = openControlPlane();
  const id = await create(plane);
  for (const template of ["base", "rki5dems9wqfm4r03t7g", "local%2Fbase"]) {
    expect(await idsOf(plane, `/v2/sandboxes?template=${template}`)).toEqual([id]);
  }
  const none = await plane.call("GET", "/v2/sandboxes?template=nope");
  expect(none).toMatchObject({ status: 200, text: "[]", headers: { "x-total-running": "0" } });
  expect(await plane.call("GET", "/v2/sandboxes?template=base:v1")).toMatchObject({ status: 400 });
});

test.each([
  ["limit=0", "query/limit: "],
  ["limit=-1", "query/limit: "],
  ["limit=x", "query/limit: "],
  ["limit=1&limit=2", "query/limit: "],
  ["limit=", "query/limit: "],
  ["limit=%201", "query/limit: "],
  ["limit=0x10", "query/limit: "],
  ["limit=1e1", "query/limit: "],
  ["order=up", "query/order: "],
  ["state=dead", "query/state/0: "],
  ["startedAfter=yesterday", "query/startedAfter: "],
  ["startedAfter=2026-02-30T00:00:00Z", "query/startedAfter: "],
])("a wrong listing query says where: %s", async (query, message) => {
  await using plane = openControlPlane();
  const answer = await plane.call("GET", `/v2/sandboxes?${query}`);
  expect(answer).toMatchObject({ status: 400, body: { code: 400 } });
  expect(answer.body).toHaveProperty("message", expect.stringContaining(`validation error: ${message}`));
});

const sampleAt = (atMs: number) => ({
  atMs,
  cpuCount: 2,
  cpuUsedPercent: 12.5,
  memUsedBytes: 1,
  memTotalBytes: 2,
  memCacheBytes: 3,
  diskUsedBytes: 4,
  diskTotalBytes: 5,
});

test("metrics come as E2B's fields, within the seconds asked for", async () => {
  await using plane = openControlPlane();
  const id = await create(plane);
  plane.runtime.samples.set(id, [5000, 10_700, 15_000].map(sampleAt));
  const { body } = await plane.call("GET", `/sandboxes/${id}/metrics?start=10&end=10`);
  expect(body).toEqual([
    {
      timestamp: "1970-01-01T00:00:10.700Z",
      timestampUnix: 10,
      cpuCount: 2,
      cpuUsedPct: 12.5,
      memUsed: 1,
      memTotal: 2,
      memCache: 3,
      diskUsed: 4,
      diskTotal: 5,
    },
  ]);
  expect((await plane.call("GET", `/sandboxes/${id}/metrics`)).body).toHaveLength(3);
  expect(await plane.call("GET", `/sandboxes/${id}/metrics?start=99`)).toMatchObject({ status: 200, body: [] });
  expect(await plane.call("GET", `/sandboxes/${id}/metrics?start=-1`)).toMatchObject({ status: 400 });
  expect(await plane.call("GET", "/sandboxes/iaa1/metrics")).toMatchObject({ status: 404, body: { code: 404 } });
});

test("the newest metrics of many sandboxes leave out those that have none", async () => {
  await using plane = openControlPlane();
  const id = await create(plane);
  const idle = await create(plane);
  plane.runtime.samples.set(id, [5000, 10_000].map(sampleAt));
  const { body } = await plane.call("GET", `/sandboxes/metrics?sandbox_ids=${id},${idle},iaa1`);
  expect(body).toEqual({ sandboxes: { [id]: expect.objectContaining({ timestampUnix: 10 }) } });
  const tooMany = Array.from({ length: 101 }, () => id).join(",");
  for (const query of ["", "?sandbox_ids=a-b-c", `?sandbox_ids=${tooMany}`]) {
    expect(await plane.call("GET", `/sandboxes/metrics${query}`)).toMatchObject({ status: 400, body: { code: 400 } });
  }
});
