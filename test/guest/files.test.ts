/** Tests of file operations with a fake guest, which answers in ways that a real agent rarely does. */
import { setImmediate as nextTurn } from "node:timers/promises";
import { expect, test } from "vitest";
import { FieldWriter } from "../../src/guest/link/fields.ts";
import { EventKind, FrameType, MAX_PAYLOAD, Tag } from "../../src/guest/link/protocol.ts";
import { connectFake, ok, payloadOf } from "../support/fakes/fake-agent.ts";

function entryFields(name = "x"): FieldWriter {
  return new FieldWriter()
    .string(Tag.name, name)
    .integer(Tag.kind, 1)
    .string(Tag.path, `/${name}`)
    .integer(Tag.size, 4)
    .integer(Tag.mode, 0o644)
    .string(Tag.owner, "root")
    .string(Tag.group, "root")
    .integer(Tag.modifiedNs, 0);
}

const noSpace = payloadOf(10, (fields) => fields.string(Tag.message, "disk full"));
const diskPressure = expect.objectContaining({ code: "disk_pressure" });

test("a slow source stops being read when the agent has answered with a failure", async () => {
  using link = await connectFake();
  let returned = false;
  const source: AsyncIterable<Uint8Array> = {
    [Symbol.asyncIterator]: () => ({
      next: () => new Promise(() => {}),
      return: async () => {
        returned = true;
        return { done: true, value: undefined };
      },
    }),
  };
  const writing = link.agent.write("/x", source);
  link.fake.send(FrameType.result, (await link.fake.next(FrameType.open)).stream, noSpace);
  await expect(writing).rejects.toThrow(diskPressure);
  expect(returned).toBe(true);
});

test("a fast source stops being read when the agent has answered with a failure", async () => {
  using link = await connectFake();
  let chunks = 0;
  let finished = false;
  const source = (async function* () {
    try {
      for (;;) {
        chunks++;
        yield Buffer.alloc(MAX_PAYLOAD);
      }
    } finally {
      finished = true;
    }
  })();
  const writing = link.agent.write("/x", source);
  const { stream } = await link.fake.next(FrameType.open);
  await link.fake.next(FrameType.data);
  link.fake.send(FrameType.result, stream, noSpace);
  await expect(writing).rejects.toThrow(diskPressure);
  expect(chunks).toBeLessThanOrEqual(10);
  await expect.poll(() => finished).toBe(true);
});

test("a failing source resets the stream, and the caller gets its error", async () => {
  using link = await connectFake();
  const source = (async function* () {
    yield Buffer.from("some");
    throw new Error("the client went away");
  })();
  const writing = link.agent.write("/x", source);
  await expect(writing).rejects.toThrow("the client went away");
  await link.fake.next(FrameType.reset);
});

test("aborting a write resets the stream", async () => {
  using link = await connectFake();
  const abort = new AbortController();
  const source = (async function* () {
    yield await new Promise<Uint8Array>(() => {});
  })();
  const writing = link.agent.write("/x", source, {}, abort.signal);
  const opened = await link.fake.next(FrameType.open);
  abort.abort();
  await expect(writing).rejects.toThrow(expect.objectContaining({ code: "cancelled" }));
  expect((await link.fake.next(FrameType.reset)).stream).toBe(opened.stream);
});

test("an aborted signal starts nothing", async () => {
  using link = await connectFake();
  const source = (async function* () {})();
  await expect(link.agent.write("/x", source, {}, AbortSignal.abort())).rejects.toThrow(
    expect.objectContaining({ code: "cancelled" }),
  );
  await expect(link.agent.ping(AbortSignal.abort())).rejects.toThrow(expect.objectContaining({ code: "cancelled" }));
  await nextTurn();
  expect(link.fake.received).toEqual([]);
});

test("a path with a NUL is refused before the guest is asked", async () => {
  using link = await connectFake();
  await expect(link.agent.stat("/a\0b")).rejects.toThrow(expect.objectContaining({ code: "invalid_argument" }));
  await expect(link.agent.exec({ command: "x", args: [], envs: { "A=B": "c" }, stdin: false })).rejects.toThrow(
    expect.objectContaining({ code: "invalid_argument" }),
  );
});

test("a read that fails half way gives the bytes before it, then the failure", async () => {
  using link = await connectFake();
  const reading = link.agent.read("/x");
  const { stream } = await link.fake.next(FrameType.open);
  const entry = payloadOf(EventKind.entry, (fields) => fields.group(Tag.entry, entryFields()));
  link.fake.send(FrameType.event, stream, entry);
  link.fake.send(FrameType.data, stream, Buffer.from("half"));
  link.fake.send(FrameType.result, stream, payloadOf(12));
  const { bytes } = await reading;
  const seen: string[] = [];
  await expect(
    (async () => {
      for await (const chunk of bytes) seen.push(Buffer.from(chunk).toString());
    })(),
  ).rejects.toThrow(expect.objectContaining({ code: "internal" }));
  expect(seen).toEqual(["half"]);
});

test("a list over several events comes entry by entry, and leaving it resets the stream", async () => {
  using link = await connectFake();
  const list = link.agent.listDirectory("/x", 1)[Symbol.asyncIterator]();
  const first = list.next();
  const { stream } = await link.fake.next(FrameType.open);
  const two = payloadOf(EventKind.entries, (fields) =>
    fields.group(Tag.entry, entryFields("a")).group(Tag.entry, entryFields("b")),
  );
  link.fake.send(FrameType.event, stream, payloadOf(EventKind.entries));
  link.fake.send(FrameType.event, stream, two);
  link.fake.send(FrameType.event, stream, two);
  const names = [await first, await list.next(), await list.next()].map(({ value }) => value?.name);
  expect(names).toEqual(["a", "b", "a"]);
  await list.return?.();
  expect((await link.fake.next(FrameType.reset)).stream).toBe(stream);
});

test("processes in events and in the result make one list", async () => {
  using link = await connectFake();
  const listing = link.agent.listProcesses();
  const { stream } = await link.fake.next(FrameType.open);
  const process = (pid: number, kind: number) =>
    payloadOf(kind, (fields) =>
      fields.group(Tag.process, new FieldWriter().integer(Tag.pid, pid).string(Tag.command, "sh")),
    );
  link.fake.send(FrameType.event, stream, process(1, EventKind.processes));
  link.fake.send(FrameType.result, stream, process(2, 0));
  expect((await listing).map(({ pid }) => pid)).toEqual([1, 2]);
});

test("setup tells an empty environment from an absent one", async () => {
  using link = await connectFake();
  const opens: Buffer[] = [];
  for (const envs of [undefined, {}, { A: "1" }]) {
    const setting = link.agent.setup(envs ? { envs } : {});
    const { stream, payload } = await link.fake.next(FrameType.open);
    opens.push(Buffer.from(payload));
    link.fake.send(FrameType.result, stream, ok);
    await setting;
  }
  expect(opens.map((payload) => payload.toString("hex"))).toEqual([
    "000e",
    "000e31000000080000000000000000",
    "000e310000000800000000000000010a00000003413d31",
  ]);
});
