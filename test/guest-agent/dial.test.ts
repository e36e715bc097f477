/** Tests of DIAL: connections to ports of the agent's machine. */
import net from "node:net";
import { networkInterfaces } from "node:os";
import { afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { buildSanitized, startAgent } from "../support/guest/built-agent.ts";
import { op, type RawLink, type RawStream, tag, WINDOW } from "../support/guest/raw-link.ts";

let link: RawLink;
let servers: net.Server[] = [];
let sockets: net.Socket[] = [];

beforeAll(buildSanitized);

beforeEach(async () => {
  link = await startAgent();
});

afterEach(async () => {
  await link[Symbol.asyncDispose]();
  for (const socket of sockets) socket.destroy();
  for (const server of servers) await new Promise((resolve) => server.close(resolve));
  [servers, sockets] = [[], []];
});

async function listen(host: string, onSocket: (socket: net.Socket) => void): Promise<number> {
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    onSocket(socket);
  });
  servers.push(server);
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, host, resolve);
  });
  return (server.address() as net.AddressInfo).port;
}

async function dial(port: number): Promise<RawStream> {
  const stream = link.open(op.dial, [[tag.port, port]]);
  expect((await stream.event()).kind).toBe(1);
  return stream;
}

/** DATA until the agent's END. */
async function received(stream: RawStream): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (;;) {
    const frame = await stream.next();
    if (frame.type === "END") return Buffer.concat(parts);
    expect(frame.type).toBe("DATA");
    stream.window(frame.payload.length);
    parts.push(frame.payload);
  }
}

test("the host closes its half first, and still gets the answer", async () => {
  const port = await listen("127.0.0.1", (socket) => {
    let length = 0;
    socket.on("data", (chunk) => {
      length += chunk.length;
    });
    socket.on("end", () => socket.end(`got ${length}`));
  });
  const stream = await dial(port);
  let credited = 0;
  for (let sent = 0; sent < 1_000_000; sent += 25_000) {
    while (sent + 25_000 - credited > WINDOW) credited += await stream.credit();
    stream.data(Buffer.alloc(25_000));
  }
  stream.end();
  expect((await received(stream)).toString()).toBe("got 1000000");
  expect((await stream.collect()).status).toBe("ok");
});

test("the guest closes its half first, and still gets the host's bytes", async () => {
  let text = "";
  let end: Promise<unknown> | undefined;
  const port = await listen("127.0.0.1", (socket) => {
    end = new Promise((resolve) => socket.once("end", resolve));
    socket.end("bye");
    socket.on("data", (chunk) => {
      text += chunk;
    });
  });
  const stream = await dial(port);
  expect((await received(stream)).toString()).toBe("bye");
  stream.data("after that");
  stream.end();
  expect((await stream.collect()).status).toBe("ok");
  await end;
  expect(text).toBe("after that");
});

test("many bytes come through, with back-pressure", async () => {
  const port = await listen("127.0.0.1", (socket) => socket.end(Buffer.alloc(20_000_000, "z")));
  const stream = await dial(port);
  await expect.poll(() => stream.waitingBytes).toBe(WINDOW);
  expect((await received(stream)).length).toBe(20_000_000);
  stream.end();
  expect((await stream.collect()).status).toBe("ok");
});

test("a server on the network's address alone is found", async (context) => {
  const addresses = Object.values(networkInterfaces()).flatMap((one) => one ?? []);
  const address = addresses.find(({ family, internal }) => family === "IPv4" && !internal)?.address;
  if (!address) return context.skip("there is no network here");
  const port = await listen(address, (socket) => socket.end("network"));
  const stream = await dial(port);
  expect((await received(stream)).toString()).toBe("network");
});

test("a server on ::1 alone is found", async (context) => {
  const port = await listen("::1", (socket) => socket.end("six")).catch(() => undefined);
  if (port === undefined) return context.skip("no IPv6 here");
  const stream = await dial(port);
  expect((await received(stream)).toString()).toBe("six");
});

test("a port without a listener, and numbers that are no ports, are refused", async () => {
  const port = await listen("127.0.0.1", () => {});
  await new Promise((resolve) => servers.pop()?.close(resolve));
  const refused = await link.call(op.dial, [[tag.port, port]]);
  expect(refused.status).toBe("not_found");
  expect(refused.fields.int(tag.errno)).toBe(111);
  for (const number of [0, 65_536]) {
    expect((await link.call(op.dial, [[tag.port, number]])).status).toBe("invalid_argument");
  }
  expect((await link.call(op.dial)).status).toBe("invalid_argument");
});

test("a broken connection ends the stream, and a dropped stream closes the connection", async () => {
  let broken: Promise<unknown> | undefined;
  const port = await listen("127.0.0.1", (socket) => {
    broken = new Promise((resolve) => socket.once("close", resolve));
    socket.once("data", (chunk) => {
      if (chunk.toString() === "break") socket.resetAndDestroy();
    });
  });
  const stream = await dial(port);
  stream.data("break");
  const { status, fields } = await stream.collect();
  expect(status).toBe("internal");
  expect(fields.int(tag.errno)).toBe(104);
  const dropped = await dial(port);
  dropped.reset();
  expect((await dropped.collect()).status).toBe("cancelled");
  await expect
    .poll(() => sockets.at(-1)?.readableEnded || sockets.at(-1)?.destroyed || sockets.at(-1)?.read() === null)
    .toBe(true);
  sockets.at(-1)?.destroy();
  await broken;
});

test("an answer that comes before the server hangs up on an upload is not lost", async () => {
  const port = await listen("127.0.0.1", (socket) => {
    socket.write("too large", () => socket.end());
    socket.pause();
  });
  const stream = await dial(port);
  for (let i = 0; i < 8; i++) stream.data(Buffer.alloc(32_768));
  expect((await received(stream)).toString()).toBe("too large");
  stream.reset();
  expect((await stream.collect()).status).toBe("cancelled");
});
