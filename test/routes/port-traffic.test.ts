/** Port traffic: the headers and bytes that pass between clients and services in a sandbox, and none that stays behind. */
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { Agent, createServer, request as httpRequest, type Server } from "node:http";
import { type AddressInfo, connect, createServer as createTcpServer, type Server as TcpServer } from "node:net";
import { afterAll, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { deriveTrafficToken } from "../../src/e2b/access-token.ts";
import { serveDataPlane } from "../support/daemon/data-plane.ts";
import { openIngress } from "../support/daemon/ingress.ts";
import { type LocalSandbox, startLocalSandbox } from "../support/guest/local-session.ts";

let sandbox: LocalSandbox;
let service: Server;
let port: number;
/** A service that answers nothing and records what it gets. */
let recorder: TcpServer;
let recorded = "";

/** Services "inside the sandbox": the local agent dials this machine's own loopback. */
beforeAll(async () => {
  sandbox = await startLocalSandbox("iaatraffic");
  service = createServer((request, response) => {
    request.resume();
    request.on("end", () => response.end(JSON.stringify(request.headers)));
  });
  recorder = createTcpServer((socket) => {
    socket.on("error", () => {});
    socket.on("data", (chunk) => {
      recorded += chunk;
    });
  });
  for (const each of [service, recorder]) {
    each.listen(0, "127.0.0.1");
    await once(each, "listening");
  }
  port = (service.address() as AddressInfo).port;
});
afterAll(async () => {
  await sandbox[Symbol.asyncDispose]();
  service.closeAllConnections();
  for (const each of [service, recorder]) each.close();
  expect(sandbox.plane.logged).toEqual([]);
});
beforeEach(() => {
  sandbox.session.ingress = openIngress;
  recorded = "";
});

const named = (toPort: number) => ({ "e2b-sandbox-id": "iaatraffic", "e2b-sandbox-port": String(toPort) });
const ask = (headers: Record<string, string> = {}, toPort = port) =>
  fetch(sandbox.plane.url, { headers: { ...named(toPort), ...headers } });

test("a private sandbox wants its token, which the service never sees", async () => {
  sandbox.session.ingress = { ...openIngress, allowPublicTraffic: false };
  const token = deriveTrafficToken(sandbox.session.accessToken);
  expect(token).not.toBe(sandbox.session.accessToken);
  const secured = "Sandbox is secured with traffic access token.";
  const header = "'e2b-traffic-access-token'";
  const missing = await ask();
  expect([missing.status, await missing.json()]).toEqual([
    403,
    { sandboxId: "iaatraffic", message: `${secured} Token header ${header} is missing`, code: 403 },
  ]);
  for (const wrong of [`${token}0`, token.replace(/./, "x"), sandbox.session.accessToken]) {
    const refused = await ask({ "e2b-traffic-access-token": wrong });
    expect(refused.status).toBe(403);
    expect(await refused.json()).toMatchObject({ message: `${secured} Provided token in header ${header} is invalid` });
  }
  const answer = await ask({ "e2b-traffic-access-token": token });
  expect(answer.status).toBe(200);
  expect(await answer.json()).not.toHaveProperty("e2b-traffic-access-token");
  const health = await fetch(`${sandbox.plane.url}/health`, { headers: named(49983) });
  expect(health.status).toBe(204);
  expect(await upgradeStatus({})).toBe(403);
  expect(await upgradeStatus({ "e2b-traffic-access-token": token })).toBe(200);
});

test("a private sandbox that sleeps is not woken without the token", async () => {
  const session = sandbox.session;
  session.ingress = { ...openIngress, allowPublicTraffic: false };
  await using plane = await serveDataPlane([], systemClock, [{ session }]);
  const wake = (headers: Record<string, string>) => fetch(plane.url, { headers: { ...named(port), ...headers } });
  expect((await wake({})).status).toBe(403);
  expect((await wake({})).status).toBe(403);
  expect((await wake({ "e2b-traffic-access-token": deriveTrafficToken(session.accessToken) })).status).toBe(200);
  // Now it is awake, and as private as before.
  expect((await wake({})).status).toBe(403);
});

test("the service sees the masked host, and the client's host beside it", async () => {
  sandbox.session.ingress = { ...openIngress, maskRequestHost: `localhost:\${PORT}` };
  const host = `${port}-iaatraffic.localhost:${sandbox.plane.port}`;
  const asked = httpRequest(sandbox.plane.url, { headers: { host } }).end();
  const [response] = await once(asked, "response");
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk);
  expect(JSON.parse(Buffer.concat(chunks).toString())).toMatchObject({
    host: `localhost:${port}`,
    "x-forwarded-host": host,
  });
});

test("headers that concern one connection are not passed on", async () => {
  const headers = { connection: "keep-alive, x-mine", "keep-alive": "timeout=9", "x-mine": "1", "x-yours": "2" };
  const asked = httpRequest(sandbox.plane.url, { headers: { ...named(port), ...headers, te: "trailers" } }).end();
  const [response] = await once(asked, "response");
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk);
  const seen = JSON.parse(Buffer.concat(chunks).toString());
  expect(seen).toMatchObject({ "x-yours": "2", connection: "close" });
  for (const name of ["x-mine", "keep-alive", "te"]) expect(seen).not.toHaveProperty(name);
});

const head = () => {
  const { port: recorderPort } = recorder.address() as AddressInfo;
  const lines = Object.entries(named(recorderPort)).map(([name, value]) => `${name}: ${value}\r\n`);
  return `host: localhost\r\n${lines.join("")}`;
};

test.each([
  ["two lengths", "content-length: 5\r\ncontent-length: 6\r\n\r\nhello"],
  ["a length and chunks", "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"],
  ["a length that is none", "content-length: +5\r\n\r\nhello"],
  ["an encoding that is not the last", "transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"],
  ["two encodings", "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n"],
  ["a disguised encoding", "transfer-encoding : chunked\r\n\r\n0\r\n\r\n"],
  ["a folded header", "x-a: 1\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n"],
  ["a bare line feed in a header", "x-a: 1\nx-b: 2\r\n\r\n"],
  ["a NUL in a header", "x-a: 1\0\r\n\r\n"],
  ["a chunk with a wrong size", "transfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"],
])("%s: refused, and the service hears of no second request", async (_, rest) => {
  const smuggled = "GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";
  const socket = connect(sandbox.plane.port, "127.0.0.1");
  socket.on("error", () => {});
  socket.write(`POST / HTTP/1.1\r\n${head()}${rest}${smuggled}`);
  const [data] = await once(socket, "data");
  socket.destroy();
  expect(String(data)).toMatch(/^HTTP\/1\.1 4\d\d /);
  expect(recorded).not.toContain("smuggled");
});

test("a header cannot add another one", async () => {
  const socket = connect(sandbox.plane.port, "127.0.0.1");
  socket.write(`GET / HTTP/1.1\r\n${head()}x-a: one\rx-b: two\r\n\r\n`);
  const [data] = await once(socket, "data");
  socket.destroy();
  expect(String(data)).toMatch(/^HTTP\/1\.1 400 /);
  expect(recorded).toBe("");
});

test("a request waits for a service that is just starting", async () => {
  const late = createServer((_, response) => response.end("here"));
  const placeholder = createTcpServer().listen(0, "127.0.0.1");
  await once(placeholder, "listening");
  const { port: latePort } = placeholder.address() as AddressInfo;
  placeholder.close();
  await once(placeholder, "close");
  const dial = vi.spyOn(sandbox.session.agent, "dial");
  const answer = ask({}, latePort);
  await expect.poll(() => dial.mock.calls.length).toBeGreaterThan(1);
  late.listen(latePort, "127.0.0.1");
  expect(await (await answer).text()).toBe("here");
  dial.mockRestore();
  late.close();
});

test("the wait for a service ends when the client leaves", async () => {
  const dial = vi.spyOn(sandbox.session.agent, "dial");
  const gone = new AbortController();
  const pending = fetch(sandbox.plane.url, { headers: named(1), signal: gone.signal });
  await expect.poll(() => dial.mock.calls.length).toBeGreaterThan(0);
  gone.abort();
  await expect(pending).rejects.toThrow();
  const isUnwanted = () => dial.mock.lastCall?.[1]?.aborted;
  await expect.poll(isUnwanted).toBe(true);
  const before = dial.mock.calls.length;
  await new Promise((resolve) => setTimeout(resolve, 400));
  expect(dial.mock.calls.length).toBe(before);
  dial.mockRestore();
});

test("a flood of connections leaves the sandbox's own streams some room", async () => {
  const { port: recorderPort } = recorder.address() as AddressInfo;
  const clients = Array.from({ length: 800 }, () => {
    const socket = connect(sandbox.plane.port, "127.0.0.1");
    socket.on("error", () => {});
    socket.write(`GET / HTTP/1.1\r\nhost: localhost\r\n`);
    for (const [name, value] of Object.entries(named(recorderPort))) socket.write(`${name}: ${value}\r\n`);
    socket.write("\r\n");
    return socket;
  });
  const [refusal] = await Promise.any(clients.map((socket) => once(socket, "data")));
  expect(String(refusal)).toMatch(/^HTTP\/1\.1 429 [\s\S]*"connectionLimit":768,"code":429/);
  const health = await fetch(`${sandbox.plane.url}/metrics`, { headers: sandbox.session.headers });
  expect(health.status).toBe(200);
  for (const socket of clients) socket.destroy();
  await expect.poll(async () => (await ask()).status).toBe(200);
});

test("10,000 requests leave nothing behind, with and without keep-alive", async () => {
  const openHere = () => readdirSync("/proc/self/fd").length;
  const rounds = async (keepAlive: boolean, total: number) => {
    const agent = new Agent({ keepAlive, maxSockets: 16 });
    let next = 0;
    const worker = async () => {
      while (next++ < total) expect(await statusOf(agent)).toBe(200);
    };
    await Promise.all(Array.from({ length: 16 }, worker));
    agent.destroy();
  };
  await rounds(true, 100);
  const settled = async () => ({ here: openHere(), inside: await sandbox.openFiles() });
  await expect.poll(() => connectionsOf(service)).toBe(0);
  const before = await settled();
  await rounds(true, 5000);
  await rounds(false, 5000);
  await expect.poll(() => connectionsOf(service)).toBe(0);
  const isSettled = async () => {
    const after = await settled();
    return after.here <= before.here && after.inside <= before.inside;
  };
  await expect.poll(isSettled).toBe(true);
});

function statusOf(agent: Agent): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const asked = httpRequest(sandbox.plane.url, { agent, headers: named(port) }, (response) => {
      response.resume();
      response.on("end", () => resolve(response.statusCode)).on("error", reject);
    });
    asked.on("error", reject).end();
  });
}

function connectionsOf(server: Server): Promise<number> {
  return new Promise((resolve, reject) => {
    server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
  });
}

async function upgradeStatus(headers: Record<string, string>): Promise<number> {
  const socket = connect(sandbox.plane.port, "127.0.0.1");
  const lines = Object.entries({ ...named(port), connection: "Upgrade", upgrade: "websocket", ...headers });
  socket.write(
    `GET / HTTP/1.1\r\nhost: localhost\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`,
  );
  const [data] = await once(socket, "data");
  socket.destroy();
  return Number(String(data).split(" ")[1]);
}
