/** The connection guard: strangers that send nothing lose their places, and clients with a key find one. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type ConnectionLimits, guardConnections, noteKey, peerOf } from "../../routes/http/connections.ts";
import { apiKey, openControlPlane } from "../support/daemon/control-plane.ts";
import { ManualClock } from "../support/fakes/manual-clock.ts";

const wide = { total: 1_000, strangers: 1_000, idleOfPeer: 1_000, graceMs: 0 };
const ask = (...lines: string[]) => `${["GET /health HTTP/1.1", "Host: localhost", ...lines].join("\r\n")}\r\n\r\n`;

describe("of a server", () => {
  let server: Server;
  let clock: ManualClock;
  const sockets: Socket[] = [];

  beforeEach(() => {
    clock = new ManualClock();
    server = createServer((request, response) => {
      if (request.headers["x-api-key"]) noteKey(request.socket);
      if (request.url !== "/never") response.end("here");
    });
    server.on("upgrade", (_request: IncomingMessage, socket: Duplex) => {
      socket.on("error", () => {}).on("end", () => socket.destroy());
      socket.resume().write("HTTP/1.1 101 Now\r\n\r\n");
    });
  });
  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.destroy();
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  });

  async function listen(limits: Partial<ConnectionLimits>): Promise<void> {
    guardConnections(server, clock, { ...wide, ...limits });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
  }

  /** Opens a connection, which the server has accepted then, and sends a request if there is one. */
  async function open(bytes = ""): Promise<Socket> {
    const accepted = once(server, "connection");
    const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
    socket.on("error", () => {}).on("data", () => {});
    sockets.push(socket);
    await accepted;
    if (bytes === "") return socket;
    const arrived = once(server, /^upgrade:/im.test(bytes) ? "upgrade" : "request");
    socket.write(bytes);
    const [, response] = await arrived;
    if (!/never|upgrade/i.test(bytes) && !response.closed) await once(response, "close");
    return socket;
  }

  const stay = (some: readonly Socket[]) => expect.poll(() => some.map(({ closed }) => !closed));
  const never = ask().replace("/health", "/never");

  test("of one peer few idle strangers stay, the newest, and all clients with a key", async () => {
    await listen({ idleOfPeer: 2 });
    const some = [await open(ask("X-API-Key: a")), await open(), await open(ask()), await open(), await open(ask())];
    await stay(some).toEqual([true, false, false, true, true]);
  });

  test("a request that is under way, and an upgraded connection, are not idle", async () => {
    await listen({ idleOfPeer: 1 });
    const upgrade = ask("Connection: upgrade", "Upgrade: x");
    const some = [await open(never), await open(upgrade), await open(), await open(), await open()];
    await stay(some).toEqual([true, true, false, false, true]);
  });

  test("a new connection has a moment for its request", async () => {
    await listen({ idleOfPeer: 1, graceMs: 2_000 });
    const some = [await open(), await open(), await open()];
    await stay(some).toEqual([true, true, true]);
    await clock.advance(2_000);
    some.push(await open());
    await stay(some).toEqual([false, false, false, true]);
  });

  test("places are kept for clients with a key: idle strangers go first, then the oldest", async () => {
    await listen({ total: 5, strangers: 3, graceMs: 60_000 });
    const keyed = [await open(ask("X-API-Key: a")), await open(ask("X-API-Key: a"))];
    const strangers = [await open(never), await open(), await open(never), await open()];
    await stay(strangers).toEqual([true, false, true, true]);
    strangers.push(await open(never), await open());
    await stay(strangers).toEqual([false, false, true, false, true, true]);
    await stay(keyed).toEqual([true, true]);
  });

  test("when all have a key, the newest finds no place", async () => {
    await listen({ total: 2, strangers: 2 });
    const some = [await open(ask("X-API-Key: a")), await open(ask("X-API-Key: a")), await open()];
    await stay(some).toEqual([true, true, false]);
  });
});

test.each([
  ["127.0.0.1", "127.9.8.7"],
  ["127.0.0.1", "::1"],
  ["127.0.0.1", "::ffff:127.0.0.1"],
  ["10.0.0.1", "::ffff:10.0.0.1"],
  ["2001:db8::1", "2001:db8:0:0:9:9:9:9"],
  ["2001:db8:1:2::1", "2001:db8:1:2:3:4:5:6"],
])("%s and %s are one peer", (one, other) => {
  expect(peerOf(one)).toBe(peerOf(other));
  expect(peerOf(one)).not.toBe(peerOf("10.0.0.2"));
  expect(peerOf(one)).not.toBe(peerOf("2001:db8:1:3::1"));
});

describe("of the daemon", () => {
  test("a client that neither ends its head nor closes loses its place", async () => {
    const config = { isApiKey: () => true, maxTimeoutMs: 60_000, headTimeoutMs: 500 };
    await using plane = openControlPlane({ config });
    const url = await plane.app.listen({ host: "127.0.0.1", port: 0 });
    for (const bytes of ["", "GET /health HTTP/1.1\r\nHost: localhost\r\n"]) {
      const socket = connect({ port: Number(new URL(url).port), host: "127.0.0.1", allowHalfOpen: true });
      socket.on("error", () => {});
      socket.write(bytes);
      const [answer] = await once(socket, "data");
      expect(String(answer)).toMatch(/^HTTP\/1\.1 408 /);
      const count = () =>
        new Promise((resolve) => plane.app.server.getConnections((_error, number) => resolve(number)));
      await expect.poll(count).toBe(0);
      socket.destroy();
    }
  });

  test("strangers that send nothing, or keep their connections, leave places to a client with the key", async () => {
    const connectionLimits = { total: 40, strangers: 30, idleOfPeer: 20, graceMs: 0 };
    const config = { isApiKey: (key: string) => key === apiKey, maxTimeoutMs: 60_000, connectionLimits };
    await using plane = openControlPlane({ config });
    const url = await plane.app.listen({ host: "127.0.0.1", port: 0 });
    const port = Number(new URL(url).port);
    const opened = Array.from({ length: 100 }, (_, at) => {
      const socket = connect(port, "127.0.0.1").on("error", () => {});
      socket.on("data", () => {});
      if (at % 2 === 0) socket.write(ask(at % 4 === 0 ? "X-API-Key: wrong" : "X-Other: 1"));
      return socket;
    });
    await expect.poll(() => opened.filter(({ closed }) => !closed).length).toBe(20);
    const keyed = connect(port, "127.0.0.1");
    keyed.write(ask(`X-API-Key: ${apiKey}`).replace("/health", "/v2/sandboxes"));
    expect(String((await once(keyed, "data"))[0])).toMatch(/^HTTP\/1\.1 200 /);
    for (let n = 0; n < 50; n++) opened.push(connect(port, "127.0.0.1").on("error", () => {}));
    await expect.poll(() => opened.filter(({ closed }) => !closed).length).toBe(20);
    expect(keyed.closed).toBe(false);
    for (const socket of [keyed, ...opened]) socket.destroy();
  });
});
