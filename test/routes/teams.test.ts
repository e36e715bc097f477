import { expect, test } from "vitest";
import { apiKey, openControlPlane, teamId } from "../support/daemon/control-plane.ts";

test("the one team, with the key the client came with", async () => {
  await using plane = openControlPlane();
  const { status, body } = await plane.call("GET", "/teams");
  expect({ status, body }).toEqual({
    status: 200,
    body: [{ teamID: teamId, name: "local", apiKey, isDefault: true }],
  });
});

test("metrics: the samples between two seconds, and the highest", async () => {
  await using plane = openControlPlane();
  const sample = (second: number, concurrentSandboxes: number, startsPerSecond: number) => ({
    atMs: second * 1000 + 500,
    concurrentSandboxes,
    startsPerSecond,
  });
  plane.runtime.teamSamples.push(sample(1, 1, 0.2), sample(6, 3, 0.4), sample(11, 3, 0));
  const metrics = await plane.call("GET", `/teams/${teamId}/metrics?start=6&end=11`);
  expect(metrics.body).toEqual([
    { timestamp: "1970-01-01T00:00:06.500Z", timestampUnix: 6, concurrentSandboxes: 3, sandboxStartRate: 0.4 },
    { timestamp: "1970-01-01T00:00:11.500Z", timestampUnix: 11, concurrentSandboxes: 3, sandboxStartRate: 0 },
  ]);
  const max = (query: string) => plane.call("GET", `/teams/${teamId}/metrics/max?${query}`);
  expect((await max("metric=concurrent_sandboxes")).body).toMatchObject({ timestampUnix: 6, value: 3 });
  expect((await max("metric=sandbox_start_rate&end=5")).body).toMatchObject({ timestampUnix: 1, value: 0.2 });
  expect((await max("metric=sandbox_start_rate&start=99")).body).toMatchObject({ value: 0 });
  expect((await max("metric=other")).status).toBe(400);
  expect((await max("")).status).toBe(400);
  expect(await plane.call("GET", "/teams/other/metrics")).toMatchObject({ status: 403, body: { code: 403 } });
});

test("a further key is shown once, works on every route, and not a moment longer than it exists", async () => {
  await using plane = openControlPlane();
  const made = await plane.call("POST", "/api-keys", { name: " ci " });
  expect(made.status).toBe(201);
  const { key, id, ...rest } = made.body as { key: string; id: string };
  expect(rest).toMatchObject({ name: "ci", lastUsed: null, mask: { prefix: "e2b_", valueLength: 40 } });
  const asIt = { "x-api-key": key };
  expect((await plane.call("GET", "/v2/sandboxes", undefined, asIt)).status).toBe(200);
  const bearer = { "x-api-key": undefined, authorization: `Bearer ${key}` };
  expect((await plane.call("GET", "/teams", undefined, bearer)).body).toMatchObject([{ apiKey: key }]);

  const listed = await plane.call("GET", "/api-keys");
  expect(listed.text).not.toContain(key);
  expect(listed.body).toEqual([{ ...rest, id, lastUsed: expect.stringMatching(/^20/) }]);

  expect((await plane.call("PATCH", `/api-keys/${id}`, { name: "other" })).status).toBe(200);
  expect((await plane.call("GET", "/api-keys")).body).toMatchObject([{ id, name: "other" }]);
  expect((await plane.call("DELETE", `/api-keys/${id}`, undefined, asIt)).status).toBe(204);
  const after = await plane.call("GET", "/v2/sandboxes", undefined, asIt);
  expect(after).toMatchObject({ status: 401, body: { code: 401, message: expect.stringMatching(/^Invalid API key/) } });
  expect((await plane.call("DELETE", `/api-keys/${id}`)).status).toBe(404);
  expect((await plane.call("PATCH", `/api-keys/${id}`, { name: "x" })).status).toBe(404);
});

test("keys need a name", async () => {
  await using plane = openControlPlane();
  for (const body of [{}, { name: "" }, { name: "  " }, { name: 1 }]) {
    expect((await plane.call("POST", "/api-keys", body)).status).toBe(400);
  }
});

test("access tokens are not issued any more", async () => {
  await using plane = openControlPlane();
  for (const body of [{ name: "x" }, undefined]) {
    expect(await plane.call("POST", "/access-tokens", body)).toMatchObject({ status: 410, body: { code: 410 } });
  }
  expect(await plane.call("DELETE", "/access-tokens/x")).toMatchObject({ status: 404, body: { code: 404 } });
});
