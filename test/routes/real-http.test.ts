/** HTTP over a real socket: bodies in chunks, half-sent bodies, bytes that are no request. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { expect, test } from "vitest";
import { apiKey, type ControlPlane, openControlPlane } from "../support/daemon/control-plane.ts";

async function listen(plane: ControlPlane): Promise<{ url: string; port: number }> {
  const url = await plane.app.listen({ host: "127.0.0.1", port: 0 });
  return { url, port: Number(new URL(url).port) };
}

/** Everything the server sends until it closes the connection. */
async function exchange(port: number, bytes: string): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  socket.write(bytes);
  return readToEnd(socket);
}

async function readToEnd(socket: Socket): Promise<string> {
  let text = "";
  socket.setEncoding("utf8").on("data", (chunk) => {
    text += chunk;
  });
  // A reset is an end like any other here.
  socket.on("error", () => undefined);
  return new Promise((resolve) => socket.once("close", () => resolve(text)));
}

const head = (lines: string[]) => [...lines, `X-API-Key: ${apiKey}`, "Host: localhost", "", ""].join("\r\n");

test("a body in chunks, as SDKs send it, is read whole", async () => {
  await using plane = openControlPlane();
  const { port } = await listen(plane);
  const chunks = ['{"templateID":', '"base","timeout":7}'].map((part) => `${part.length.toString(16)}\r\n${part}\r\n`);
  const request = head([
    "POST /v2/sandboxes HTTP/1.1",
    "Transfer-Encoding: chunked",
    "Content-Type: application/json",
    "Connection: close",
  ]);
  const answer = await exchange(port, `${request}${chunks.join("")}0\r\n\r\n`);
  expect(answer).toMatch(/^HTTP\/1\.1 201 /);
  expect(plane.runtime.created).toMatchObject([{ timeoutMs: 7000 }]);
});

test("a chunked body over the limit is refused while it comes", async () => {
  await using plane = openControlPlane();
  const { url } = await listen(plane);
  async function* megabytes(): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < 3; at += 1) yield new Uint8Array(2 ** 20).fill(32);
  }
  const answer = await fetch(`${url}/v2/sandboxes`, {
    method: "POST",
    headers: { "x-api-key": apiKey, "content-type": "application/json" },
    body: ReadableStream.from(megabytes()),
    duplex: "half",
  } as RequestInit);
  expect(answer.status).toBe(413);
  expect(await answer.json()).toEqual({ code: 413, message: "the body is too large" });
});

test("a client that leaves in the middle of a body leaves nothing behind", async () => {
  await using plane = openControlPlane();
  const { url, port } = await listen(plane);
  const socket = connect(port, "127.0.0.1");
  const request = ["POST /v2/sandboxes HTTP/1.1", "Content-Length: 100", "Content-Type: application/json"];
  socket.end(`${head(request)}{"templateID"`);
  await readToEnd(socket);
  expect((await fetch(`${url}/health`)).status).toBe(204);
  expect(plane.runtime.created).toEqual([]);
  expect(plane.errors).toEqual([]);
});

test("a client that stops in the middle of a body loses its connection", async () => {
  const config = { isApiKey: (key: string) => key === apiKey, maxTimeoutMs: 60_000, bodyTimeoutMs: 50 };
  await using plane = openControlPlane({ config });
  const { port } = await listen(plane);
  const request = ["POST /v2/sandboxes HTTP/1.1", "Content-Length: 100", "Content-Type: application/json"];
  expect(await exchange(port, `${head(request)}{"templateID"`)).toBe("");
  expect(plane.runtime.created).toEqual([]);
  expect(plane.errors).toEqual([]);
});

test("a client that never ends its headers loses its connection", async () => {
  const config = { isApiKey: (key: string) => key === apiKey, maxTimeoutMs: 60_000, headTimeoutMs: 3_000 };
  await using plane = openControlPlane({ config });
  const { url, port } = await listen(plane);
  expect(await exchange(port, "GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: 1")).toMatch(/^HTTP\/1\.1 408 /);
  expect((await fetch(`${url}/health`)).status).toBe(204);
});

test.each([
  ["garbage", "\0\x01\x02\r\n\r\n", 400],
  ["no HTTP at all", "hello\r\n\r\n", 400],
  ["headers without end", head(["GET /health HTTP/1.1", `X-Long: ${"a".repeat(20_000)}`]), 431],
  ["no host", "GET /health HTTP/1.1\r\n\r\n", 400],
  ["two lengths", head(["POST /sandboxes HTTP/1.1", "Content-Length: 1", "Content-Length: 2"]), 400],
  ["a length with a sign", head(["POST /sandboxes HTTP/1.1", "Content-Length: +1"]), 400],
  ["a space before a colon", head(["POST /sandboxes HTTP/1.1", "Content-Length : 1"]), 400],
  ["an unknown last coding", head(["POST /sandboxes HTTP/1.1", "Transfer-Encoding: chunked, gzip"]), 400],
  ["a carriage return within a header", head(["GET /health HTTP/1.1", "X-A: b\rX-API-Key: c"]), 400],
  ["a NUL within a header", head(["GET /health HTTP/1.1", "X-A: b\0c"]), 400],
  ["another version of HTTP", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400],
  [
    "a chunk without end",
    `${head(["POST /sandboxes HTTP/1.1", "Content-Type: application/json", "Transfer-Encoding: chunked"])}${"f".repeat(17)}
`,
    400,
  ],
  ["both kinds of length", head(["POST /sandboxes HTTP/1.1", "Content-Length: 1", "Transfer-Encoding: chunked"]), 400],
])("bytes that are %s are refused, and the daemon goes on", async (_name, bytes, status) => {
  await using plane = openControlPlane();
  const { url, port } = await listen(plane);
  expect(await exchange(port, bytes)).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
  expect((await fetch(`${url}/health`)).status).toBe(204);
});

test("closing the server ends idle and half-open connections", async () => {
  const plane = openControlPlane();
  const { port } = await listen(plane);
  const idle = connect(port, "127.0.0.1");
  idle.write(head(["GET /health HTTP/1.1"]));
  await once(idle, "data");
  const half = connect(port, "127.0.0.1");
  half.write("GET /health HTTP/1.1\r\n");
  await once(half, "connect");
  const ended = Promise.all([readToEnd(idle), readToEnd(half)]);
  await plane.app.close();
  await ended;
});
