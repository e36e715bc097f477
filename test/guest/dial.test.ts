/** Tests of connections into the guest, with a fake guest. */
import http from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { setImmediate as nextTurn } from "node:timers/promises";
import { Client } from "undici";
import { expect, test } from "vitest";
import { EventKind, FrameType, INITIAL_WINDOW, MAX_PAYLOAD, Operation } from "../../src/guest/link/protocol.ts";
import { connectFake, type FakeLink, ok, payloadOf } from "../support/fakes/fake-agent.ts";

async function dial({ agent, fake }: FakeLink): Promise<{ socket: Duplex; stream: number }> {
  const dialling = agent.dial(8080);
  const { stream, payload } = await fake.next(FrameType.open);
  expect(Buffer.from(payload).toString("hex")).toBe(`000${Operation.dial.toString(16)}25000000080000000000001f90`);
  fake.send(FrameType.event, stream, payloadOf(EventKind.started));
  return { socket: await dialling, stream };
}

async function textOf(socket: AsyncIterable<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of socket) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

test("each direction closes by itself, and nothing is reset after both have closed", async () => {
  using link = await connectFake();
  const { socket, stream } = await dial(link);
  link.fake.send(FrameType.data, stream, Buffer.from("answer"));
  link.fake.send(FrameType.end, stream);
  expect(await textOf(socket.iterator({ destroyOnReturn: false }))).toBe("answer");
  expect(socket.destroyed).toBe(false);
  socket.end("question");
  expect(Buffer.from((await link.fake.next(FrameType.data)).payload).toString()).toBe("question");
  await link.fake.next(FrameType.end);
  await expect.poll(() => socket.destroyed).toBe(true);
  await nextTurn();
  expect(link.fake.received).toEqual([]);
  link.fake.send(FrameType.result, stream, ok);
  const ping = link.agent.ping();
  link.fake.send(FrameType.result, (await link.fake.next(FrameType.open)).stream, ok);
  await ping;
});

test("destroying the connection resets the stream", async () => {
  using link = await connectFake();
  const { socket, stream } = await dial(link);
  socket.destroy();
  expect((await link.fake.next(FrameType.reset)).stream).toBe(stream);
});

test("bytes without a reader stay in the guest", async () => {
  using link = await connectFake();
  const { socket, stream } = await dial(link);
  for (let i = 0; i < 7; i++) {
    link.fake.send(FrameType.data, stream, Buffer.alloc(MAX_PAYLOAD));
  }
  await nextTurn();
  socket.read(1);
  await nextTurn();
  expect(link.fake.received).toEqual([]);
  socket.resume();
  expect((await link.fake.next(FrameType.window)).stream).toBe(stream);
});

test("bytes that the guest does not take fill the connection, which reports back-pressure", async () => {
  using link = await connectFake();
  const { socket, stream } = await dial(link);
  let flushed = false;
  socket.write(Buffer.alloc(INITIAL_WINDOW + 1), () => {
    flushed = true;
  });
  for (let got = 0; got < INITIAL_WINDOW; ) got += (await link.fake.next(FrameType.data)).payload.length;
  expect([socket.writableNeedDrain, flushed]).toEqual([true, false]);
  link.fake.send(FrameType.window, stream, Buffer.of(0, 1, 0, 0));
  await expect.poll(() => flushed).toBe(true);
});

test("a failure in the guest is the connection's error", async () => {
  using link = await connectFake();
  const { socket, stream } = await dial(link);
  link.fake.send(FrameType.data, stream, Buffer.from("half"));
  link.fake.send(FrameType.result, stream, payloadOf(12));
  await expect(textOf(socket)).rejects.toThrow(expect.objectContaining({ code: "internal" }));
});

test("a refused port and an aborted dial reject", async () => {
  using link = await connectFake();
  const refused = link.agent.dial(1);
  link.fake.send(FrameType.result, (await link.fake.next(FrameType.open)).stream, payloadOf(2));
  await expect(refused).rejects.toThrow(expect.objectContaining({ code: "not_found" }));
  const abort = new AbortController();
  const aborted = link.agent.dial(2, abort.signal);
  abort.abort();
  await expect(aborted).rejects.toThrow(expect.objectContaining({ code: "cancelled" }));
  await link.fake.next(FrameType.reset);
});

/** Answers one HTTP request on a dialled stream. */
async function serve({ fake }: FakeLink): Promise<string> {
  const { stream } = await fake.next(FrameType.open);
  fake.send(FrameType.event, stream, payloadOf(EventKind.started));
  const request = Buffer.from((await fake.next(FrameType.data)).payload).toString();
  fake.send(FrameType.data, stream, Buffer.from("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"));
  return request;
}

test("node:http uses it as a socket", async () => {
  using link = await connectFake();
  const serving = serve(link);
  const connection = await link.agent.dial(80);
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    const request = http.get({ path: "/x", createConnection: () => connection, timeout: 1_000 }, resolve);
    request.on("error", reject).setNoDelay();
    request.setSocketKeepAlive();
  });
  expect(await textOf(response)).toBe("hello");
  expect(await serving).toMatch(/^GET \/x HTTP\/1.1\r\n/);
});

test("undici uses it as a socket", async () => {
  using link = await connectFake();
  const serving = serve(link);
  const client = new Client("http://guest", {
    connect: (_options, callback) => {
      link.agent.dial(80).then(
        (connection) => callback(null, connection as Socket),
        (error: Error) => callback(error, null),
      );
    },
  });
  const { statusCode, body } = await client.request({ path: "/x", method: "GET" });
  expect([statusCode, await body.text()]).toEqual([200, "hello"]);
  expect(await serving).toMatch(/^GET \/x HTTP\/1.1\r\n/);
  await client.close();
  await link.fake.next(FrameType.reset);
});
