/** Tests of a hostile guest at the link: it loses its own link at most, and others are served meanwhile. */
import { expect, test } from "vitest";
import { FieldWriter } from "../../src/guest/link/fields.ts";
import { encodeFrame } from "../../src/guest/link/frames.ts";
import { EventKind, FrameType, Tag } from "../../src/guest/link/protocol.ts";
import { connectFake, type FakeLink, ok, payloadOf } from "../support/fakes/fake-agent.ts";

const spec = { command: "sh", args: [], envs: {}, stdin: true };
const brokenProtocol = expect.objectContaining({
  code: "machine_failed",
  message: expect.stringContaining("The guest broke the link protocol"),
});

/** Starts a process on the fake guest, and gives the process and its stream. */
async function exec({ agent, fake }: FakeLink) {
  const starting = agent.exec(spec);
  const { stream } = await fake.next(FrameType.open);
  fake.send(
    FrameType.event,
    stream,
    payloadOf(EventKind.started, (fields) => fields.integer(Tag.pid, 7)),
  );
  return { process: await starting, stream };
}

/** That many frames of one byte each, on two channels in turn, in one piece. */
function tinyFrames(stream: number, count: number): Buffer {
  const pair = [1, 2].flatMap((channel) =>
    encodeFrame({ type: FrameType.data, channel, stream, payload: Buffer.from("x") }),
  );
  return Buffer.concat(Array.from({ length: count / 2 }, () => Buffer.concat(pair)));
}

/** A frame that no guest may send, so that the link ends when everything before it was worked through. */
const wrongFrame = Buffer.concat(encodeFrame({ type: FrameType.reset, channel: 0, stream: 1, payload: Buffer.of() }));

async function ping({ agent, fake }: FakeLink): Promise<void> {
  const answered = agent.ping();
  fake.send(FrameType.result, (await fake.next(FrameType.open)).stream, ok);
  await answered;
}

test.each<[string, (link: FakeLink, stream: number) => void]>([
  ["DATA without bytes", ({ fake }, stream) => fake.send(FrameType.data, stream, Buffer.of(), 1)],
  ["an EVENT without its kind", ({ fake }, stream) => fake.send(FrameType.event, stream, Buffer.of())],
  ["WINDOW for no bytes", ({ fake }, stream) => fake.send(FrameType.window, stream, Buffer.of(0, 0, 0, 0))],
])("%s, which would be free, breaks the link", async (_name, act) => {
  using link = await connectFake();
  const { process, stream } = await exec(link);
  act(link, stream);
  expect(await link.agent.closed).toEqual(brokenProtocol);
  await Promise.allSettled([process.end]);
});

test.each<[string, (link: FakeLink, stream: number) => void]>([
  ["DATA", ({ fake }, stream) => fake.bytes.write(tinyFrames(stream, 70_000))],
  [
    "EVENTs",
    ({ fake }, stream) => {
      for (let i = 0; i < 70_000; i++) fake.send(FrameType.event, stream, payloadOf(EventKind.changed));
    },
  ],
])("a stream that goes on with %s after its RESET ends the link", async (_name, act) => {
  using link = await connectFake();
  const { process, stream } = await exec(link);
  process.detach();
  await link.fake.next(FrameType.reset);
  act(link, stream);
  expect(await link.agent.closed).toEqual(brokenProtocol);
});

test("an honest guest's output that crosses a RESET does not end the link", async () => {
  using link = await connectFake();
  const { process, stream } = await exec(link);
  process.detach();
  link.fake.bytes.write(tinyFrames(stream, 20_000));
  link.fake.send(FrameType.result, stream, payloadOf(11));
  await ping(link);
});

test("requests to other guests are answered while the frames of five hostile ones wait", async () => {
  const hostile = await Promise.all(Array.from({ length: 5 }, () => connectFake()));
  using other = await connectFake();
  const ended: number[] = [];
  for (const [index, link] of hostile.entries()) {
    const { stream } = await exec(link);
    void link.agent.closed.then(() => ended.push(index));
    link.fake.bytes.write(Buffer.concat([tinyFrames(stream, 20_000), wrongFrame]));
  }
  for (let i = 0; i < 20; i++) await ping(other);
  expect(ended).toEqual([]);
  for (const link of hostile) expect(await link.agent.closed).toEqual(brokenProtocol);
  expect(ended.length).toBe(5);
});

test("a list of processes without end is refused when it has too many bytes", async () => {
  using link = await connectFake();
  const listing = link.agent.listProcesses();
  const { stream } = await link.fake.next(FrameType.open);
  const one = new FieldWriter().integer(Tag.pid, 7).string(Tag.command, "sh").string(Tag.argument, "x".repeat(30_000));
  const event = payloadOf(EventKind.processes, (fields) => fields.group(Tag.process, one));
  let sent = 0;
  void (async () => {
    for (let windowBytes = 262_144; sent < 2_000; sent++, windowBytes -= event.length) {
      while (windowBytes < event.length) {
        windowBytes += Buffer.from((await link.fake.next(FrameType.window)).payload).readUInt32BE(0);
      }
      link.fake.send(FrameType.event, stream, event);
    }
  })();
  await expect(listing).rejects.toMatchObject({
    code: "capacity_exhausted",
    message: expect.stringContaining("16 MiB"),
  });
  expect(sent).toBeLessThan(600);
});

test("all output of a chatty guest arrives, in order, when it takes many turns", async () => {
  using link = await connectFake();
  const { process, stream } = await exec(link);
  const expected: string[] = [];
  for (let line = 0; line < 5_000; line++) {
    expected.push(`line ${line}\n`);
    link.fake.send(FrameType.data, stream, Buffer.from(`line ${line}\n`), 1 + (line % 2));
  }
  link.fake.send(
    FrameType.result,
    stream,
    payloadOf(0, (fields) => fields.integer(Tag.exitCode, 0)),
  );
  link.fake.bytes.end();
  let text = "";
  for await (const { bytes } of process.output) text += Buffer.from(bytes);
  expect(text).toBe(expected.join(""));
  expect(await process.end).toMatchObject({ exitCode: 0 });
});

test("large frames arrive whole when they take many turns", async () => {
  using link = await connectFake();
  const read = link.agent.read("/x");
  const { stream } = await link.fake.next(FrameType.open);
  const entry = payloadOf(EventKind.entry, (fields) =>
    fields.group(
      Tag.entry,
      ["name", "path", "owner", "group"]
        .reduce((group, name) => group.string(Tag[name as "name"], name), new FieldWriter())
        .integer(Tag.kind, 1)
        .integer(Tag.size, 1)
        .integer(Tag.mode, 0o644)
        .integer(Tag.modifiedNs, 1),
    ),
  );
  link.fake.send(FrameType.event, stream, entry);
  const { bytes } = await read;
  const sending = (async () => {
    let windowBytes = 200_000;
    for (let sent = 0; sent < 64; sent++, windowBytes -= 32_768) {
      while (windowBytes < 32_768) {
        const { payload } = await link.fake.next(FrameType.window);
        windowBytes += Buffer.from(payload).readUInt32BE(0);
      }
      link.fake.send(FrameType.data, stream, Buffer.alloc(32_768, sent));
    }
    link.fake.send(FrameType.result, stream, ok);
  })();
  let received = 0;
  for await (const chunk of bytes) {
    expect(chunk.every((byte, at) => byte === Math.floor((received + at) / 32_768))).toBe(true);
    received += chunk.length;
  }
  await sending;
  expect(received).toBe(64 * 32_768);
});
