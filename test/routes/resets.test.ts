/** Resets: what a sandbox no longer sends ends by a TCP reset, so that no client takes a part of it for the whole. */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { truncate, writeFile } from "node:fs/promises";
import { type AddressInfo, connect, createServer, type Server, Socket } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { envelope } from "../support/clients/connect-frames.ts";
import { type LocalSandbox, startLocalSandbox } from "../support/guest/local-session.ts";

let sandbox: LocalSandbox;
let service: Server;
/** The service's end of its latest connection. */
let inside: Socket | undefined;
/** What the service sends when a head has come. */
let answer = "";

beforeEach(async () => {
  sandbox = await startLocalSandbox("iaaresets");
  service = createServer({ allowHalfOpen: false }, (socket) => {
    inside = socket;
    socket.on("error", () => {});
    socket.once("data", () => socket.write(answer));
  });
  service.listen(0, "127.0.0.1");
  await once(service, "listening");
});
afterEach(async () => {
  await sandbox[Symbol.asyncDispose]();
  inside?.destroy();
  service.close();
  expect(sandbox.plane.logged).toEqual([]);
});

const kill = () => sandbox.session.kill(new DomainError("not_found", "the sandbox was killed"));
const portLines = () => {
  const { port } = service.address() as AddressInfo;
  return ["host: localhost", "e2b-sandbox-id: iaaresets", `e2b-sandbox-port: ${port}`];
};
const envdLines = () => [
  "host: localhost",
  ...Object.entries(sandbox.session.headers).map(([name, value]) => `${name}: ${value}`),
];
const upgradeLines = ["connection: Upgrade", "upgrade: websocket"];

/** A client that tells an orderly end of its connection from a reset. */
function open(requestLine: string, lines: readonly string[], body: string | Uint8Array = "") {
  const socket = connect(sandbox.plane.port, "127.0.0.1");
  let text = "";
  let end: string | undefined;
  socket.on("data", (chunk) => {
    text += chunk.toString("latin1");
  });
  socket.on("end", () => {
    end ??= "in order";
  });
  socket.on("error", (error: NodeJS.ErrnoException) => {
    end ??= error.code ?? "error";
  });
  socket.write(`${[requestLine, ...lines].join("\r\n")}\r\n\r\n`);
  socket.write(body);
  return {
    receives: (part: string) => expect.poll(() => text).toContain(part),
    ends: (how: string) => expect.poll(() => end).toBe(how),
  };
}

test.each(["HTTP/1.0", "HTTP/1.1"])(
  "an answer of a port, asked for in %s, ends by a reset with the sandbox",
  async (version) => {
    answer = "HTTP/1.1 200 OK\r\n\r\nsome";
    const client = open(`GET / ${version}`, portLines());
    await client.receives("some");
    kill();
    await client.ends("ECONNRESET");
  },
);

test("an answer that has no length ends by a reset when its service does, and in order when its service does so", async () => {
  answer = "HTTP/1.1 200 OK\r\n\r\nsome";
  const reset = open("GET / HTTP/1.0", portLines());
  await reset.receives("some");
  inside?.resetAndDestroy();
  await reset.ends("ECONNRESET");
  const whole = open("GET / HTTP/1.0", portLines());
  await whole.receives("some");
  inside?.end();
  await whole.ends("in order");
});

test("an answer that is shorter than its length ends by a reset", async () => {
  answer = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome";
  const client = open("GET / HTTP/1.1", portLines());
  await client.receives("some");
  inside?.end();
  await client.ends("ECONNRESET");
});

test("an upgraded connection ends by a reset with the sandbox and with a reset of its service", async () => {
  answer = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhello";
  const cut = open("GET /ws HTTP/1.1", [...portLines(), ...upgradeLines]);
  await cut.receives("hello");
  inside?.resetAndDestroy();
  await cut.ends("ECONNRESET");
  const killed = open("GET /ws HTTP/1.1", [...portLines(), ...upgradeLines]);
  await killed.receives("hello");
  kill();
  await killed.ends("ECONNRESET");
});

test("an upgrade that is refused at length ends by a reset when the refusal is cut short", async () => {
  answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nsome";
  const client = open("GET /ws HTTP/1.1", [...portLines(), ...upgradeLines]);
  await client.receives("some");
  inside?.end();
  await client.ends("ECONNRESET");
});

test("an upgrade whose service leaves without a word is a 502", async () => {
  service.removeAllListeners("connection");
  service.on("connection", (socket) => {
    inside = socket;
    socket.on("error", () => {});
    socket.once("data", () => socket.end());
  });
  const client = open("GET /ws HTTP/1.1", [...portLines(), ...upgradeLines]);
  await client.receives("HTTP/1.1 502 Bad Gateway");
  await client.ends("in order");
});

test("a stream of a command ends by a reset with the sandbox", async () => {
  const body = envelope({ process: { cmd: "/bin/sh", args: ["-c", "echo here; sleep 600"] } });
  const lines = [...envdLines(), "content-type: application/connect+json", `content-length: ${body.length}`];
  const client = open("POST /process.Process/Start HTTP/1.1", lines, body);
  await client.receives(Buffer.from("here\n").toString("base64"));
  kill();
  await client.ends("ECONNRESET");
});

test.each([
  ["identity", "the sandbox", async () => kill()],
  ["gzip", "the sandbox", async () => kill()],
  ["gzip", "its file, which becomes shorter,", (path: string) => truncate(path, 1)],
])("a download in %s ends by a reset with %s", async (encoding, _name, end) => {
  const path = join(sandbox.folder, "large");
  // Far more than the buffers between the file and a client that has stopped reading.
  await writeFile(path, randomBytes(32 << 20));
  const socket = connect(sandbox.plane.port, "127.0.0.1");
  socket.on("error", () => {});
  const lines = [...envdLines(), `accept-encoding: ${encoding}`];
  socket.write(`GET /files?path=${encodeURIComponent(path)} HTTP/1.0\r\n${lines.join("\r\n")}\r\n\r\n`);
  const [first] = await once(socket, "data");
  socket.pause();
  expect(String(first)).toMatch(/^HTTP\/1\.1 200 /);
  // Node's own client reads a reset behind unread bytes as an orderly end, so the daemon is watched instead.
  const reset = vi.spyOn(Socket.prototype, "resetAndDestroy");
  const closed = new Promise((resolve) => socket.once("close", resolve));
  await end(path);
  socket.resume();
  await closed;
  expect(reset).toHaveBeenCalledTimes(1);
  reset.mockRestore();
});
