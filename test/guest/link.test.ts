/** Tests of the link itself, with a fake guest: greeting, streams, windows, ends. */
import { expect, test } from "vitest";
import type { Clock } from "../../src/clock.ts";
import { DomainError } from "../../src/errors.ts";
import { connectGuestAgent } from "../../src/guest/connect.ts";
import { Fields } from "../../src/guest/link/fields.ts";
import { EventKind, FrameType, INITIAL_WINDOW, MAX_PAYLOAD, Operation, Tag } from "../../src/guest/link/protocol.ts";
import { connectFake, FakeAgent, type FakeLink, ok, payloadOf } from "../support/fakes/fake-agent.ts";
import { openGuestPort } from "../support/fakes/fake-guest.ts";
import { ManualClock } from "../support/fakes/manual-clock.ts";
import { duplexPair } from "../support/guest/duplex-pair.ts";
import { localAgent } from "../support/guest/local-agent.ts";

const machineFailed = expect.objectContaining({ code: "machine_failed" });
const started = (pid: number) => payloadOf(EventKind.started, (fields) => fields.integer(Tag.pid, pid));
const exited = payloadOf(0, (fields) => fields.integer(Tag.exitCode, 0).boolean(Tag.exited, true));
const spec = { command: "sh", args: ["-c", "true"], envs: {}, stdin: true };

function operationOf(payload: Uint8Array): number {
  return Buffer.from(payload).readUInt16BE(0);
}

/** Starts a process on the fake guest, and gives the process and its stream. */
async function exec({ agent, fake }: FakeLink) {
  const starting = agent.exec(spec);
  const { stream } = await fake.next(FrameType.open);
  fake.send(FrameType.event, stream, started(7));
  return { process: await starting, stream };
}

test("the host speaks first: zeros, then HELLO", async () => {
  const [stream, guestEnd] = duplexPair();
  const chunks: Buffer[] = [];
  guestEnd.on("data", (chunk: Buffer) => chunks.push(chunk));
  const connecting = connectGuestAgent(stream, { deadlineMs: 60_000 });
  await expect.poll(() => Buffer.concat(chunks).length).toBe(32_800 + 39);
  const bytes = Buffer.concat(chunks);
  expect(bytes.subarray(0, 32_800).every((byte) => byte === 0)).toBe(true);
  expect(bytes.subarray(32_800, -17).toString("hex")).toBe("01000000000000000000001a6669726b696e00010001");
  expect(bytes.at(-1)).toBe(0xa5);
  guestEnd.destroy();
  await expect(connecting).rejects.toThrow(machineFailed);
});

test("garbage and an older WELCOME before ours are thrown away", async () => {
  const [stream, guestEnd] = duplexPair();
  using fake = new FakeAgent(guestEnd);
  guestEnd.write(Buffer.alloc(100_000, 0xa5));
  fake.sendWelcome(Buffer.alloc(16, 1));
  const connecting = connectGuestAgent(stream, { deadlineMs: 60_000 });
  const nonce = await fake.hello();
  fake.send(FrameType.result, 9, ok);
  fake.sendWelcome(nonce);
  const agent = await connecting;
  expect([agent.agentVersion, agent.bootId]).toEqual(["fake", "boot"]);
  agent.close();
});

test("a HELLO whose answer was lost is sent again, with the same nonce and more and more rarely", async () => {
  const [stream, guestEnd] = duplexPair();
  using fake = new FakeAgent(guestEnd);
  const clock = new ManualClock();
  const connecting = connectGuestAgent(stream, { deadlineMs: 60_000, clock });
  const nonce = await fake.hello();
  for (const pauseMs of [1_000, 2_000, 4_000, 8_000, 8_000]) {
    await clock.advance(pauseMs - 1);
    expect(fake.received).toEqual([]);
    await clock.advance(1);
    expect(await fake.hello()).toEqual(nonce);
  }
  fake.sendWelcome(nonce);
  const agent = await connecting;
  await clock.advance(30_000);
  expect([fake.received, clock.sleeperCount, agent.bootId]).toEqual([[], 0, "boot"]);
  agent.close();
});

test("an agent that answers every HELLO, the later ones late, serves the link all the same", async () => {
  const [stream, guestEnd] = duplexPair();
  using fake = new FakeAgent(guestEnd);
  const clock = new ManualClock();
  const connecting = connectGuestAgent(stream, { deadlineMs: 60_000, clock });
  const nonce = await fake.hello();
  await clock.advance(1_000);
  await fake.hello();
  fake.sendWelcome(nonce);
  const agent = await connecting;
  const ping = agent.ping();
  const { stream: id } = await fake.next(FrameType.open);
  fake.sendWelcome(nonce);
  fake.send(FrameType.result, id, ok);
  await ping;
  // Each HELLO is answered once: a further WELCOME is an answer to nothing.
  fake.sendWelcome(nonce);
  expect(await agent.closed).toEqual(machineFailed);
});

test("the real agent connects by the second HELLO when the first is lost", async () => {
  const port = openGuestPort({ kind: "agent", command: localAgent() });
  try {
    const guest = port.connect();
    const [hostEnd, relay] = duplexPair();
    const first = 32_800 + 39;
    let seen = 0;
    relay.on("data", (chunk: Buffer) => {
      seen += chunk.length;
      if (seen > first) guest.write(chunk.subarray(Math.max(0, chunk.length - (seen - first))));
    });
    guest.on("data", (chunk: Buffer) => relay.write(chunk));
    const agent = await connectGuestAgent(hostEnd, { deadlineMs: 60_000 });
    await agent.ping();
    agent.close();
  } finally {
    port.close();
  }
});

test("a guest of another protocol version is refused", async () => {
  const [stream, guestEnd] = duplexPair();
  using fake = new FakeAgent(guestEnd);
  const connecting = connectGuestAgent(stream, { deadlineMs: 60_000 });
  fake.sendWelcome(await fake.hello(), { version: 2 });
  await expect(connecting).rejects.toThrow(expect.objectContaining({ code: "unsupported" }));
  expect(stream.destroyed).toBe(true);
});

test("a silent guest is given up at the deadline", async () => {
  const [stream, guestEnd] = duplexPair();
  using fake = new FakeAgent(guestEnd);
  let expire = () => {};
  const clock: Clock = {
    nowMs: () => 0,
    monotonicMs: () => 0,
    sleep: (ms) =>
      new Promise((resolve) => {
        if (ms === 250) expire = resolve;
      }),
  };
  const connecting = connectGuestAgent(stream, { deadlineMs: 250, clock });
  await fake.hello();
  guestEnd.write("still booting");
  expire();
  await expect(connecting).rejects.toThrow("250 ms");
  expect(stream.destroyed).toBe(true);
  expect(stream.listenerCount("data") + stream.listenerCount("drain") + stream.listenerCount("close")).toBe(0);
});

test.each([
  ["a reason of ours", new DomainError("deadline_exceeded", "too late"), "deadline_exceeded"],
  ["any other reason", new Error("gone"), "cancelled"],
])("aborting the connect with %s", async (_name, reason, code) => {
  const [stream] = duplexPair();
  const abort = new AbortController();
  const connecting = connectGuestAgent(stream, { deadlineMs: 60_000, signal: abort.signal });
  abort.abort(reason);
  await expect(connecting).rejects.toThrow(expect.objectContaining({ code }));
  expect(stream.destroyed).toBe(true);
});

test.each<[string, (fake: FakeAgent, nonce: Uint8Array) => void]>([
  ["the stream ends", (fake) => fake.bytes.end()],
  ["the stream is destroyed", (fake) => fake.bytes.destroy()],
  ["WELCOME lacks its fields", (fake, nonce) => fake.send(FrameType.welcome, 0, nonce)],
  ["WELCOME does not end in 0xA5", (fake, nonce) => breakWelcome(fake, nonce)],
])("connecting fails when %s", async (_name, act) => {
  const [stream, guestEnd] = duplexPair();
  using fake = new FakeAgent(guestEnd);
  const connecting = connectGuestAgent(stream, { deadlineMs: 60_000 });
  act(fake, await fake.hello());
  await expect(connecting).rejects.toThrow(machineFailed);
  expect(stream.destroyed).toBe(true);
});

function breakWelcome(fake: FakeAgent, nonce: Uint8Array): void {
  fake.bytes.write(Buffer.concat([Buffer.from("020000000000000000000010", "hex"), nonce, Buffer.of(0)]));
}

test("connecting over a destroyed stream fails at once", async () => {
  const [stream] = duplexPair();
  stream.destroy();
  await expect(connectGuestAgent(stream, { deadlineMs: 60_000 })).rejects.toThrow(machineFailed);
});

test("requests run side by side and are answered in any order", async () => {
  using link = await connectFake();
  const pings = [link.agent.ping(), link.agent.sync()];
  const first = await link.fake.next(FrameType.open);
  const second = await link.fake.next(FrameType.open);
  expect([first.stream, operationOf(first.payload)]).toEqual([1, Operation.ping]);
  expect([second.stream, operationOf(second.payload)]).toEqual([2, Operation.sync]);
  link.fake.send(FrameType.result, 2, ok);
  link.fake.send(FrameType.result, 1, ok);
  await Promise.all(pings);
});

test.each<[string, (fake: FakeAgent, stream: number) => void]>([
  ["a frame for a stream that was never opened", (fake) => fake.send(FrameType.data, 99, Buffer.from("x"))],
  ["a frame for stream 0", (fake) => fake.send(FrameType.data, 0, Buffer.from("x"))],
  [
    "a second RESULT",
    (fake, stream) => {
      fake.send(FrameType.result, stream, exited);
      fake.send(FrameType.result, stream, exited);
    },
  ],
  ["a RESULT without a status", (fake, stream) => fake.send(FrameType.result, stream, Buffer.of(0))],
  ["a RESULT with torn fields", (fake, stream) => fake.send(FrameType.result, stream, Buffer.of(0, 0, 4, 0))],
  [
    "DATA after END",
    (fake, stream) => {
      fake.send(FrameType.end, stream);
      fake.send(FrameType.data, stream, Buffer.from("x"), 1);
    },
  ],
  [
    "a second END",
    (fake, stream) => {
      fake.send(FrameType.end, stream);
      fake.send(FrameType.end, stream);
    },
  ],
  ["END with a payload", (fake, stream) => fake.send(FrameType.end, stream, Buffer.from("x"))],
  ["WINDOW for bytes never sent", (fake, stream) => fake.send(FrameType.window, stream, Buffer.of(0, 0, 0, 1))],
  ["WINDOW of another size", (fake, stream) => fake.send(FrameType.window, stream, Buffer.of(0, 0))],
  ["a frame that only hosts send", (fake, stream) => fake.send(FrameType.open, stream, ok)],
  ["another WELCOME", (fake) => fake.sendWelcome(Buffer.alloc(16))],
  ["bytes that are no frame", (fake) => fake.bytes.write(Buffer.from("garbage in the middle"))],
  [
    "more DATA than the window",
    (fake, stream) => {
      for (let sent = 0; sent <= INITIAL_WINDOW; sent += MAX_PAYLOAD) {
        fake.send(FrameType.data, stream, Buffer.alloc(MAX_PAYLOAD), 1);
      }
    },
  ],
  [
    "a flood of events without content",
    (fake, stream) => {
      for (let i = 0; i < 20_000; i++) fake.send(FrameType.event, stream, Buffer.of(0, 1));
    },
  ],
])("%s breaks the link", async (_name, act) => {
  using link = await connectFake();
  const { process, stream } = await exec(link);
  act(link.fake, stream);
  expect(await link.agent.closed).toEqual(machineFailed);
  expect(link.stream.destroyed).toBe(true);
  await expect(link.agent.ping()).rejects.toThrow(machineFailed);
  await Promise.allSettled([process.end]);
});

test("an answer without a required field breaks the link", async () => {
  using link = await connectFake();
  const stat = link.agent.stat("/x");
  const { stream } = await link.fake.next(FrameType.open);
  link.fake.send(FrameType.result, stream, ok);
  await expect(stat).rejects.toThrow(machineFailed);
  expect(await link.agent.closed).toEqual(machineFailed);
});

test("everything under way fails when the link breaks", async () => {
  using link = await connectFake();
  const { process } = await exec(link);
  const output = process.output[Symbol.asyncIterator]();
  const never = (async function* () {
    yield await new Promise<Uint8Array>(() => {});
  })();
  const pending = [
    link.agent.ping(),
    link.agent.exec(spec),
    link.agent.read("/x"),
    link.agent.write("/x", never),
    link.agent.listDirectory("/", 1)[Symbol.asyncIterator]().next(),
    link.agent.listProcesses(),
    link.agent.watch("/", { recursive: false, includeEntry: false }),
    link.agent.dial(80),
    process.write(new Uint8Array(INITIAL_WINDOW + 1)),
    process.end,
    output.next(),
  ];
  await new Promise(setImmediate);
  link.fake.bytes.destroy();
  const outcomes = await Promise.allSettled(pending);
  expect(outcomes.map((outcome) => outcome.status === "rejected" && outcome.reason)).toEqual(
    pending.map(() => machineFailed),
  );
  expect(link.stream.listenerCount("data") + link.stream.listenerCount("drain")).toBe(0);
});

test("a broken link with an unwatched process, watch and connection does not crash the daemon", async () => {
  const link = await connectFake();
  await exec(link);
  const watching = link.agent.watch("/", { recursive: true, includeEntry: false });
  const dialling = link.agent.dial(80);
  for (let i = 0; i < 2; i++) {
    link.fake.send(FrameType.event, (await link.fake.next(FrameType.open)).stream, payloadOf(EventKind.started));
  }
  await watching;
  const connection = await dialling;
  connection.resume();
  link.fake.bytes.destroy();
  await link.agent.closed;
  await new Promise(setImmediate);
  expect(connection.destroyed).toBe(true);
});

test("closing the link ends pending requests as cancelled", async () => {
  using link = await connectFake();
  const ping = link.agent.ping();
  link.agent.close();
  await expect(ping).rejects.toThrow(expect.objectContaining({ code: "cancelled" }));
  expect(await link.agent.closed).toEqual(expect.objectContaining({ code: "cancelled" }));
});

test("after RESET everything up to the RESULT is thrown away, and a later frame breaks the link", async () => {
  using link = await connectFake();
  const { process, stream } = await exec(link);
  link.fake.send(FrameType.data, stream, Buffer.from("unread"), 1);
  process.detach();
  await link.fake.next(FrameType.reset);
  await expect(process.output[Symbol.asyncIterator]().next()).rejects.toThrow(
    expect.objectContaining({ code: "cancelled" }),
  );
  link.fake.send(FrameType.data, stream, Buffer.from("late"), 1);
  link.fake.send(FrameType.event, stream, started(7));
  link.fake.send(FrameType.result, stream, payloadOf(11));
  await expect(process.end).rejects.toThrow(expect.objectContaining({ code: "cancelled" }));
  const ping = link.agent.ping();
  link.fake.send(FrameType.result, (await link.fake.next(FrameType.open)).stream, ok);
  await ping;
  link.fake.send(FrameType.data, stream, Buffer.from("too late"), 1);
  expect(await link.agent.closed).toEqual(machineFailed);
});

test("window is given back only for bytes that were read, and one slow reader does not hold up another stream", async () => {
  using link = await connectFake();
  const { process, stream } = await exec(link);
  for (let i = 0; i < 7; i++) link.fake.send(FrameType.data, stream, Buffer.alloc(MAX_PAYLOAD, i), 1);
  const ping = link.agent.ping();
  link.fake.send(FrameType.result, (await link.fake.next(FrameType.open)).stream, ok);
  await ping;
  expect(link.fake.received).toEqual([]);

  const output = process.output[Symbol.asyncIterator]();
  for (let i = 0; i < 3; i++) expect((await output.next()).value?.bytes.length).toBe(MAX_PAYLOAD);
  await new Promise(setImmediate);
  expect(link.fake.received).toEqual([]);
  await output.next();
  const window = await link.fake.next(FrameType.window);
  expect([window.stream, Buffer.from(window.payload).readUInt32BE(0)]).toEqual([stream, 2 + 8 + 5 + 4 * MAX_PAYLOAD]);
});

test("input waits for the window and goes out in order, in frames that fit", async () => {
  using link = await connectFake();
  const { process, stream } = await exec(link);
  const input = Buffer.alloc(INITIAL_WINDOW + 10, "input ");
  const writing = process.write(input);
  const last = process.write(Buffer.from("last"));
  process.closeStdin();
  let got = Buffer.alloc(0);
  while (got.length < INITIAL_WINDOW) {
    const { payload } = await link.fake.next(FrameType.data);
    expect(payload.length).toBeLessThanOrEqual(MAX_PAYLOAD);
    got = Buffer.concat([got, payload]);
  }
  await new Promise(setImmediate);
  expect(link.fake.received).toEqual([]);
  link.fake.send(FrameType.window, stream, Buffer.of(0, 4, 0, 0));
  await Promise.all([writing, last]);
  for (let i = 0; i < 2; i++) got = Buffer.concat([got, (await link.fake.next(FrameType.data)).payload]);
  expect(got.equals(Buffer.concat([input, Buffer.from("last")]))).toBe(true);
  await link.fake.next(FrameType.end);
  await expect(process.write(Buffer.from("more"))).rejects.toThrow(
    expect.objectContaining({ code: "failed_precondition" }),
  );
});

test("output that arrived before the end is still read after it", async () => {
  using link = await connectFake();
  const { process, stream } = await exec(link);
  link.fake.send(FrameType.data, stream, Buffer.from("out"), 1);
  link.fake.send(FrameType.data, stream, Buffer.from("err"), 2);
  const end = payloadOf(0, (fields) => fields.integer(Tag.exitCode, 2n ** 64n - 1n).boolean(Tag.exited, false));
  link.fake.send(
    FrameType.result,
    stream,
    Buffer.concat([end, payloadOf(0, (f) => f.integer(Tag.signal, 9)).subarray(2)]),
  );
  expect(await process.end).toEqual({ exitCode: -1, exited: false, signal: 9 });
  const seen: string[] = [];
  for await (const { channel, bytes } of process.output) seen.push(`${channel}:${Buffer.from(bytes)}`);
  expect(seen).toEqual(["stdout:out", "stderr:err"]);
  await expect(process.write(Buffer.from("x"))).rejects.toThrow(
    expect.objectContaining({ code: "failed_precondition" }),
  );
});

test("leaving the output early resets the stream, even while a read is pending", async () => {
  using link = await connectFake();
  const { process, stream } = await exec(link);
  const output = process.output[Symbol.asyncIterator]();
  const pending = output.next();
  await output.return?.();
  expect(await pending).toEqual({ done: true, value: undefined });
  expect((await link.fake.next(FrameType.reset)).stream).toBe(stream);
});

test("an aborted start rejects at once and leaves no process behind", async () => {
  using link = await connectFake();
  const abort = new AbortController();
  const starting = link.agent.exec(spec, abort.signal);
  const { stream } = await link.fake.next(FrameType.open);
  abort.abort();
  await expect(starting).rejects.toThrow(expect.objectContaining({ code: "cancelled" }));
  link.fake.send(FrameType.event, stream, started(7));
  const signal = await link.fake.next(FrameType.open);
  expect(operationOf(signal.payload)).toBe(Operation.signal);
  const fields = Fields.decode(signal.payload.subarray(2));
  expect([fields.integer(Tag.pid), fields.integer(Tag.signal)]).toEqual([7, 9]);
  link.fake.send(FrameType.result, signal.stream, ok);
  expect((await link.fake.next(FrameType.reset)).stream).toBe(stream);
});

test("the host refuses more streams than an agent serves", async () => {
  using link = await connectFake();
  const pings = Array.from({ length: 1_024 }, () => link.agent.ping());
  await expect(link.agent.ping()).rejects.toThrow(expect.objectContaining({ code: "capacity_exhausted" }));
  link.agent.close();
  await Promise.allSettled(pings);
});

test("a guest that stops reading loses its link instead of filling the daemon's memory", async () => {
  using link = await connectFake();
  link.fake.bytes.pause();
  const files = [{ path: "/x", content: "x".repeat(1_000_000), mode: 0o644 }];
  const requests = Array.from({ length: 100 }, () => link.agent.setup({ files }));
  const outcomes = await Promise.allSettled(requests);
  expect(outcomes.every(({ status }) => status === "rejected")).toBe(true);
  expect(await link.agent.closed).toEqual(machineFailed);
});

test.each([
  [1, "invalid_argument", "invalid_argument"],
  [2, "not_found", "not_found"],
  [3, "already_exists", "already_exists"],
  [4, "permission_denied", "permission_denied"],
  [5, "failed_precondition", "failed_precondition"],
  [6, "not_a_directory", "invalid_argument"],
  [7, "unauthenticated", "unauthenticated"],
  [8, "unsupported", "unsupported"],
  [9, "resource_exhausted", "capacity_exhausted"],
  [10, "no_space", "disk_pressure"],
  [11, "cancelled", "cancelled"],
  [12, "internal", "internal"],
  [13, "is_a_directory", "invalid_argument"],
  [99, "status_99", "internal"],
])("status %i (%s) becomes %s", async (status, name, code) => {
  using link = await connectFake();
  const ping = link.agent.ping();
  const { stream } = await link.fake.next(FrameType.open);
  const failure = payloadOf(status, (fields) =>
    fields.string(Tag.message, "so it is").integer(Tag.errno, 5).string(Tag.path, "/p"),
  );
  link.fake.send(FrameType.result, stream, failure);
  await expect(ping).rejects.toThrow(
    expect.objectContaining({ code, message: "so it is", details: { status: name, errno: 5, path: "/p" } }),
  );
});
