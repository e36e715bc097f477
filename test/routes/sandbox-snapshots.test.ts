/** Forks, snapshots and follow-ups over HTTP: requests, answers, refusals. */
import { expect, test } from "vitest";
import { type ControlPlane, openControlPlane } from "../support/daemon/control-plane.ts";

async function create(plane: ControlPlane, options: object = {}): Promise<string> {
  const { body } = await plane.call("POST", "/v2/sandboxes", { templateID: "base", ...options });
  return (body as { sandboxID: string }).sandboxID;
}

test("a fork answers for each child", async () => {
  await using plane = openControlPlane();
  const id = await create(plane, { metadata: { job: "a" } });
  const answer = await plane.call("POST", `/sandboxes/${id}/fork`, { count: 3, timeout: 60 });
  expect(answer).toMatchObject({ status: 201 });
  expect(answer.body).toMatchObject([
    { sandbox: { templateID: expect.any(String), envdAccessToken: expect.any(String) } },
    { sandbox: { sandboxID: expect.stringMatching(/^iaa/) } },
    { error: { code: 429, message: "no room" } },
  ]);
  expect(plane.runtime.created.at(-1)).toMatchObject({ timeoutMs: 60_000, metadata: { job: "a" } });
  await plane.call("POST", `/sandboxes/${id}/fork`);
  plane.runtime.pause(id);
  expect(await plane.call("POST", `/sandboxes/${id}/fork`)).toMatchObject({ status: 409 });
});

test("a snapshot is a reference that create takes, with or without a name", async () => {
  await using plane = openControlPlane();
  const id = await create(plane);
  const take = async (body?: object) => (await plane.call("POST", `/sandboxes/${id}/snapshots`, body)).body;
  expect(await take()).toEqual({ snapshotID: "template0:default", names: [] });
  expect(await take({ name: "Mine" })).toEqual({ snapshotID: "local/mine:default", names: ["local/mine:default"] });
  expect(await take({ name: "local/mine:v2" })).toEqual({ snapshotID: "local/mine:v2", names: ["local/mine:v2"] });
  for (const name of ["a:b:c", "other/mine", "ü"]) {
    expect(await plane.call("POST", `/sandboxes/${id}/snapshots`, { name })).toMatchObject({ status: 400 });
  }
});

test("snapshots are listed in pages, by sandbox and name, and deleted by id", async () => {
  await using plane = openControlPlane();
  const [one, two] = [await create(plane), await create(plane)];
  await plane.call("POST", `/sandboxes/${one}/snapshots`);
  await plane.call("POST", `/sandboxes/${two}/snapshots`, { name: "mine" });
  const idsOf = async (query: string) => {
    const { body, headers } = await plane.call("GET", `/snapshots${query}`);
    return [(body as { snapshotID: string }[]).map(({ snapshotID }) => snapshotID), headers["x-next-token"]] as const;
  };
  expect(await idsOf("")).toEqual([["template0:default", "local/mine:default"], undefined]);
  expect(await idsOf(`?sandboxID=${one}`)).toEqual([["template0:default"], undefined]);
  expect(await idsOf("?name=mine")).toEqual([["local/mine:default"], undefined]);
  for (const name of ["local/mine", "mine:default", "template1", "template1:default"]) {
    expect(await idsOf(`?name=${encodeURIComponent(name)}`)).toEqual([["local/mine:default"], undefined]);
  }
  expect(await idsOf("?name=mine:v2")).toEqual([[], undefined]);
  const [first, token] = await idsOf("?limit=1");
  expect(first).toEqual(["template0:default"]);
  expect(await idsOf(`?limit=1&nextToken=${token}`)).toEqual([["local/mine:default"], undefined]);
  for (const query of ["?limit=0", "?nextToken=abc", "?sandboxID=a-b-c"]) {
    expect(await plane.call("GET", `/snapshots${query}`)).toMatchObject({ status: 400 });
  }
  const path = `/templates/${encodeURIComponent("local/mine:default")}`;
  expect(await plane.call("DELETE", path)).toMatchObject({ status: 204, text: "" });
  expect(await plane.call("DELETE", path)).toMatchObject({ status: 404, body: { code: 404 } });
});

test("a follow-up goes on from a paused sandbox and says why that was paused", async () => {
  await using plane = openControlPlane();
  const id = await create(plane, { metadata: { job: "a" }, envVars: { A: "1" } });
  expect(await plane.call("POST", "/sandboxes/followups", { sandboxID: id })).toMatchObject({ status: 409 });
  await plane.call("POST", `/sandboxes/${id}/pause`, { reason: "idle" });
  const body = { sandboxID: id, timeout: 60, envVars: { B: "2" } };
  expect(await plane.call("POST", "/sandboxes/followups", body)).toMatchObject({
    status: 201,
    body: { continuationOf: id, continuationReason: "idle", sandboxID: expect.not.stringMatching(id) },
  });
  expect(plane.runtime.created.at(-1)).toMatchObject({ timeoutMs: 60_000, metadata: { job: "a" }, envs: { B: "2" } });
  expect((await plane.call("GET", `/sandboxes/${id}`)).body).toMatchObject({ state: "paused" });
});

test.each([
  ["POST", "/sandboxes/iaa1/fork", {}, 404],
  ["POST", "/sandboxes/iaa1/fork", { count: 0 }, 400],
  ["POST", "/sandboxes/iaa1/fork", { count: 101 }, 400],
  ["POST", "/sandboxes/iaa1/fork", { count: "2" }, 400],
  ["POST", "/sandboxes/iaa1/fork", { timeout: 0 }, 400],
  ["POST", "/sandboxes/iaa1/fork", { timeout: 86_401 }, 400],
  ["POST", "/sandboxes/iaa1/snapshots", {}, 404],
  ["POST", "/sandboxes/iaa1/snapshots", { name: 1 }, 400],
  ["POST", "/sandboxes/followups", {}, 400],
  ["POST", "/sandboxes/followups", { sandboxID: "iaa1" }, 404],
  ["POST", "/sandboxes/followups", { sandboxID: "iaa1", envVars: { "a=b": "1" } }, 400],
  ["DELETE", "/templates/nobody", undefined, 404],
  ["DELETE", "/templates/a%3Ab%3Ac", undefined, 400],
] as const)("refused: %s %s %j is %i", async (method, url, body, status) => {
  await using plane = openControlPlane();
  expect(await plane.call(method, url, body)).toMatchObject({ status, body: { code: status } });
});
