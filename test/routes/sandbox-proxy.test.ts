import { once } from "node:events";
import { createServer, request as httpRequest, type Server } from "node:http";
import { type AddressInfo, connect, createServer as createTcpServer } from "node:net";
import type { Duplex } from "node:stream";
import { afterAll, beforeAll, expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { serveDataPlane } from "../support/daemon/data-plane.ts";
import { type LocalSandbox, startLocalSandbox } from "../support/guest/local-session.ts";

let sandbox: LocalSandbox;
let service: Server;
let port: number;
const upgraded: Duplex[] = [];

/** A service "inside the sandbox": the local agent dials this machine's own loopback. */
beforeAll(async () => {
  sandbox = await startLocalSandbox("iaaproxy");
  service = createServer(async (request, response) => {
    if (request.url === "/never") return;
    if (request.url === "/cut") {
      response.writeHead(200, { "content-length": "1000" }).write("some");
      setTimeout(() => response.destroy(), 20);
      return;
    }
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    response.setHeader("set-cookie", ["a=1", "b=2"]);
    response.writeHead(201, { "content-type": "application/json", "x-from": "service" });
    response.end(
      JSON.stringify({
        method: request.method,
        url: request.url,
        host: request.headers.host,
        te: request.headers["transfer-encoding"] ?? null,
        body: Buffer.concat(chunks).toString(),
      }),
    );
  });
  service.on("upgrade", (request, socket) => {
    upgraded.push(socket);
    if (request.url !== "/ws") {
      socket.end("HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
      return;
    }
    socket.write("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhello ");
    socket.on("error", () => socket.destroy());
    socket.pipe(socket);
  });
  service.listen(0, "127.0.0.1");
  await once(service, "listening");
  port = (service.address() as AddressInfo).port;
});

afterAll(async () => {
  await sandbox[Symbol.asyncDispose]();
  service.closeAllConnections();
  service.close();
  expect(sandbox.plane.logged).toEqual([]);
});

const named = (toPort: number) => ({ "e2b-sandbox-id": "iaaproxy", "e2b-sandbox-port": String(toPort) });
const ask = (path: string, init: RequestInit = {}) =>
  fetch(`${sandbox.plane.url}${path}`, { ...init, headers: { ...named(port), ...init.headers } });

test("requests and answers pass through, whatever the path", async () => {
  const response = await ask("/health?x=1", { method: "POST", body: "hello" });
  expect(response.status).toBe(201);
  expect(response.headers.get("x-from")).toBe("service");
  expect(response.headers.getSetCookie()).toEqual(["a=1", "b=2"]);
  expect(await response.json()).toMatchObject({ method: "POST", url: "/health?x=1", body: "hello" });
  expect((await ask("/process.Process/List")).status).toBe(201);
});

test.each(["PROPFIND", "REPORT", "MKCALENDAR", "PURGE"])("%s passes, with its body", async (method) => {
  const response = await ask("/dav", { method, body: "<propfind/>" });
  expect(await response.json()).toMatchObject({ method, url: "/dav", body: "<propfind/>" });
});

test("the host form reaches the port, and the service sees the host", async () => {
  const host = `${port}-iaaproxy.localhost:${sandbox.plane.port}`;
  const asked = httpRequest(`${sandbox.plane.url}/path`, { headers: { host } });
  asked.end();
  const [response] = await once(asked, "response");
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk);
  expect(JSON.parse(Buffer.concat(chunks).toString())).toMatchObject({ url: "/path", host });
});

test("a chunked body streams", async () => {
  const body = new ReadableStream({
    start(controller) {
      for (let i = 0; i < 50; i++) controller.enqueue(Buffer.alloc(10_000, "x"));
      controller.close();
    },
  });
  const response = await ask("/upload", { method: "PUT", body, duplex: "half" } as RequestInit);
  expect(((await response.json()) as { body: string }).body.length).toBe(500_000);
});

test("a chunked body stays framed with methods that rarely have one", async () => {
  const socket = connect(sandbox.plane.port, "127.0.0.1");
  const head = Object.entries(named(port))
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join("");
  socket.write(
    `GET /chunked HTTP/1.1\r\nhost: localhost\r\n${head}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n`,
  );
  let text = "";
  socket.on("data", (chunk) => {
    text += chunk;
  });
  await expect.poll(() => text).toContain('"te":"chunked","body":"abc"');
  expect(text).toContain("HTTP/1.1 201");
  socket.destroy();
});

test("a closed port is a 502 that names it", async () => {
  const probe = createTcpServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const closed = (probe.address() as AddressInfo).port;
  probe.close();
  await once(probe, "close");
  const response = await fetch(`${sandbox.plane.url}/`, { headers: named(closed) });
  expect(response.status).toBe(502);
  expect(await response.json()).toEqual({
    sandboxId: "iaaproxy",
    message: "The sandbox is running but port is not open",
    port: closed,
    code: 502,
  });
});

test("an answer that is cut short is cut for the client, too", async () => {
  const response = await ask("/cut");
  await expect(response.text()).rejects.toThrow();
});

test("a client that leaves closes the connection inside", async () => {
  const gone = new AbortController();
  const connection = once(service, "connection");
  const pending = ask("/never", { signal: gone.signal });
  const [inside] = await connection;
  gone.abort();
  await expect(pending).rejects.toThrow();
  if (!inside.destroyed) await once(inside, "close");
});

test("after an upgrade bytes pass both ways, the first ones too", async () => {
  const { socket, received } = await openUpgraded("early ");
  await expect.poll(received).toBe("hello early ");
  socket.write("late");
  await expect.poll(received).toBe("hello early late");
  socket.destroy();
  const inside = upgraded.at(-1);
  if (inside && !inside.destroyed) await once(inside, "close");
});

test("an upgrade that the service refuses, a closed port and an unknown sandbox are answers", async () => {
  expect(await upgradeStatus("/no-ws-here", named(port))).toBe(400);
  expect(await upgradeStatus("/ws", named(1))).toBe(502);
  expect(await upgradeStatus("/ws", { ...named(port), "e2b-sandbox-id": "iaanobody" })).toBe(502);
  expect(await upgradeStatus("/ws", {})).toBe(400);
});

test("open upgrades do not keep the server from closing", async () => {
  await using plane = await serveDataPlane([sandbox.session]);
  const socket = connect(plane.port, "127.0.0.1");
  socket.write(upgradeHead("/ws", named(port)));
  await once(socket, "data");
  const closed = once(socket, "close");
  await plane[Symbol.asyncDispose]();
  await closed;
});

test("open connections fall with the sandbox", async () => {
  const { socket } = await openUpgraded();
  socket.on("error", () => {});
  const arrived = once(service, "request");
  const pending = ask("/never");
  const closed = new Promise((resolve) => socket.once("close", resolve));
  pending.catch(() => {});
  await arrived;
  sandbox.session.kill(new DomainError("not_found", "the sandbox was killed"));
  await closed;
  await expect(pending).rejects.toThrow();
  expect((await ask("/")).status).toBe(502);
});

function upgradeHead(path: string, headers: Record<string, string>): string {
  const lines = Object.entries({
    host: "localhost",
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": Buffer.alloc(16).toString("base64"),
    ...headers,
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  return `GET ${path} HTTP/1.1\r\n${lines.join("")}\r\n`;
}

async function upgradeStatus(path: string, headers: Record<string, string>): Promise<number> {
  const socket = connect(sandbox.plane.port, "127.0.0.1");
  socket.write(upgradeHead(path, headers));
  const [data] = await once(socket, "data");
  socket.destroy();
  return Number(String(data).split(" ")[1]);
}

async function openUpgraded(early = "") {
  const socket = connect(sandbox.plane.port, "127.0.0.1");
  let text = "";
  socket.on("data", (chunk) => {
    text += chunk;
  });
  socket.write(upgradeHead("/ws", named(port)) + early);
  await expect.poll(() => text).toContain("\r\n\r\n");
  expect(text).toMatch(/^HTTP\/1\.1 101 /);
  return { socket, received: () => text.slice(text.indexOf("\r\n\r\n") + 4) };
}
