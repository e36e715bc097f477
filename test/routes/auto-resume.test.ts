/** Auto-resume: the requests that wake a paused sandbox, and the answers to those that may not. */
import { once } from "node:events";
import { request as httpRequest } from "node:http";
import { afterAll, beforeAll, expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { signatureOf } from "../../src/e2b/signatures.ts";
import { DomainError } from "../../src/errors.ts";
import type { GuestAgent } from "../../src/guest/agent.ts";
import { type DataPlane, serveDataPlane, TestSession } from "../support/daemon/data-plane.ts";
import { type LocalAgent, startLocalAgent } from "../support/guest/local-agent.ts";

let local: LocalAgent;
beforeAll(async () => {
  local = await startLocalAgent();
  await local.agent.setup({ defaultUser: "root" });
});
afterAll(() => local[Symbol.asyncDispose]());

const sleeper = (id = "iaasleeps", agent: GuestAgent = local.agent) => new TestSession(id, agent);
const serve = (session: TestSession, failure?: Error): Promise<DataPlane> =>
  serveDataPlane([], systemClock, [failure ? { session, failure } : { session }]);
const toPort = (session: TestSession, port: number) => ({
  "e2b-sandbox-id": session.sandboxId,
  "e2b-sandbox-port": String(port),
});

test("a request with the token wakes the sandbox and is served, however it names it", async () => {
  for (const headers of [sleeper().headers, { "x-access-token": sleeper().accessToken }]) {
    await using plane = await serve(sleeper());
    const answer = await fetch(`${plane.url}/envs`, { headers });
    expect([answer.status, await answer.json()]).toEqual([200, { E2B_SANDBOX: "true" }]);
  }
});

test("a body that was sent while the sandbox slept arrives", async () => {
  await using plane = await serve(sleeper());
  const listing = await fetch(`${plane.url}/filesystem.Filesystem/Stat`, {
    method: "POST",
    headers: { ...sleeper().headers, "content-type": "application/json", "connect-protocol-version": "1" },
    body: JSON.stringify({ path: "/etc" }),
  });
  expect(await listing.json()).toMatchObject({ entry: { path: "/etc" } });
});

test.each([
  ["no token", {}],
  ["a wrong token", { "x-access-token": "wrong" }],
])("envd with %s wakes nobody", async (_, headers) => {
  const session = sleeper();
  await using plane = await serve(session);
  for (const path of ["/envs", "/health", "/files?path=/etc/hostname"]) {
    const answer = await fetch(`${plane.url}${path}`, { headers: { ...toPort(session, 49983), ...headers } });
    expect(answer.status).toBe(403);
    expect(await answer.json()).toMatchObject({ code: 403, message: expect.stringContaining("can't be resumed") });
  }
});

test("a signed URL wakes its sandbox; an expired one, or one for another sandbox, does not", async () => {
  const session = sleeper();
  const urlOf = (expiration: string, token = session.accessToken) => {
    const signed = { path: "/etc/hostname", username: "root", expiration };
    const signature = encodeURIComponent(signatureOf(signed, "read", token));
    return `/files?path=/etc/hostname&username=root&signature=${signature}&signature_expiration=${expiration}`;
  };
  const soon = String(Math.floor(Date.now() / 1000) + 60);
  await using plane = await serve(session);
  expect((await fetch(plane.url + urlOf("1"))).status).toBe(401);
  expect((await fetch(plane.url + urlOf(soon, "another"))).status).toBe(401);
  expect((await fetch(plane.url + urlOf(soon))).status).toBe(200);
});

test("any request to a port wakes the sandbox, an upgrade too; nothing listens there", async () => {
  for (const headers of [{}, { connection: "upgrade", upgrade: "websocket" }]) {
    const session = sleeper();
    await using plane = await serve(session);
    const asking = httpRequest(plane.url, { headers: { ...toPort(session, 9), ...headers } }).end();
    const [answer] = await once(asking, "response");
    let text = "";
    for await (const chunk of answer) text += chunk;
    expect([answer.statusCode, JSON.parse(text)]).toMatchObject([
      502,
      { message: expect.stringContaining("not open") },
    ]);
  }
});

test("a preflight of a browser wakes no sandbox", async () => {
  const session = sleeper();
  await using plane = await serve(session, new DomainError("internal", "it was woken"));
  const answer = await fetch(`${plane.url}/envs`, { method: "OPTIONS", headers: toPort(session, 49983) });
  expect(answer.status).toBe(204);
});

test("a sandbox that cannot be resumed says why, to requests and to upgrades", async () => {
  const session = sleeper();
  await using plane = await serve(session, new DomainError("capacity_exhausted", "no room"));
  for (const headers of [{}, { connection: "upgrade", upgrade: "websocket" }]) {
    const asking = httpRequest(plane.url, { headers: { ...toPort(session, 8000), ...headers } }).end();
    const [answer] = await once(asking, "response");
    let text = "";
    for await (const chunk of answer) text += chunk;
    expect([answer.statusCode, JSON.parse(text)]).toMatchObject([429, { message: "no room" }]);
  }
});

test("an unknown sandbox is still not found", async () => {
  await using plane = await serve(sleeper());
  for (const port of ["49983", "80"]) {
    const headers = { "e2b-sandbox-id": "iaaother", "e2b-sandbox-port": port, "x-access-token": "t" };
    expect((await fetch(plane.url, { headers })).status).toBe(502);
  }
});
