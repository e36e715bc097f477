/** Fuzz tests of the link: for any input from a guest, every request settles, a failed one with the typed error. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { FieldWriter } from "../../src/guest/link/fields.ts";
import { encodeFrame } from "../../src/guest/link/frames.ts";
import { FrameType, Tag } from "../../src/guest/link/protocol.ts";
import { connectFake, payloadOf } from "../support/fakes/fake-agent.ts";

const fields = fc
  .array(fc.tuple(fc.constantFrom(...Object.values(Tag)), fc.uint8Array({ maxLength: 12 })), { maxLength: 6 })
  .map((list) => list.reduce((writer, [tag, value]) => writer.bytes(tag, value), new FieldWriter()));
const payload = fc.oneof(
  fc.tuple(fc.nat(6), fields).map(([kind, writer]) => writer.payload(kind)),
  fc.tuple(fc.nat(6), fields, fields).map(([kind, outer, entry]) => outer.group(Tag.entry, entry).payload(kind)),
  fc.uint8Array({ maxLength: 30 }),
  fc.constant(new Uint8Array(0)),
);
const frame = fc.record({
  type: fc.constantFrom(
    FrameType.data,
    FrameType.end,
    FrameType.event,
    FrameType.event,
    FrameType.result,
    FrameType.window,
    FrameType.welcome,
  ),
  stream: fc.nat(9),
  channel: fc.nat(3),
  payload,
});

test("random frames for requests under way", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(frame, { maxLength: 12 }), async (frames) => {
      using link = await connectFake();
      const { agent, fake } = link;
      const settled = Promise.allSettled([
        agent.exec({ command: "x", args: [], envs: {}, stdin: true }).then(async (process) => {
          for await (const _ of process.output);
          await process.end;
        }),
        agent.read("/x").then(async ({ bytes }) => {
          for await (const _ of bytes);
        }),
        agent.stat("/x"),
        agent.metrics(),
        agent.listProcesses(),
        (async () => {
          for await (const _ of agent.listDirectory("/", 1));
        })(),
        agent.watch("/", { recursive: true, includeEntry: true }).then(async ({ events }) => {
          for await (const _ of events);
        }),
        agent.dial(1).then(async (connection) => {
          for await (const _ of connection);
        }),
      ]);
      await fake.next(FrameType.open);
      for (const { type, stream, channel, payload } of frames) {
        fake.send(type, stream, payload, type === FrameType.data ? channel : 0);
      }
      await new Promise(setImmediate);
      agent.close();
      for (const outcome of await settled) {
        if (outcome.status === "rejected") expect(outcome.reason).toBeInstanceOf(DomainError);
      }
      expect(["machine_failed", "cancelled"]).toContain(((await agent.closed) as DomainError).code);
    }),
    { numRuns: 300 },
  );
}, 30_000);

test("random floods, cut anywhere: every frame is judged in order, and another guest is served", async () => {
  const part = fc.record({
    frame: frame.filter(({ type, stream }) => type !== FrameType.welcome && stream > 0),
    times: fc.constantFrom(1, 2, 600, 1_300),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(part, { maxLength: 6 }), fc.integer({ min: 1, max: 90_000 }), async (parts, cut) => {
      using link = await connectFake();
      using other = await connectFake();
      const requests = [link.agent.stat("/x"), link.agent.listProcesses(), link.agent.read("/x"), link.agent.dial(1)];
      const settled = Promise.allSettled(requests);
      for (let i = 0; i < requests.length; i++) await link.fake.next(FrameType.open);
      const flood = Buffer.concat(
        parts.flatMap(({ frame: { type, stream, channel, payload }, times }) => {
          const encoded = encodeFrame({ type, stream, payload, channel: type === FrameType.data ? channel : 0 });
          return Array.from({ length: times }, () => Buffer.concat(encoded));
        }),
      );
      for (let at = 0; at < flood.length; at += cut) link.fake.bytes.write(flood.subarray(at, at + cut));
      const ping = other.agent.ping();
      other.fake.send(FrameType.result, (await other.fake.next(FrameType.open)).stream, payloadOf(0));
      await ping;
      // The end of the byte stream comes after everything before it was judged.
      link.fake.bytes.end();
      expect(["machine_failed", "cancelled"]).toContain(((await link.agent.closed) as DomainError).code);
      for (const outcome of await settled) {
        if (outcome.status === "rejected") expect(outcome.reason).toBeInstanceOf(DomainError);
      }
    }),
    { numRuns: 60 },
  );
}, 60_000);

test("random bytes after the greeting", async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 80 }), async (bytes) => {
      using link = await connectFake();
      const ping = link.agent.ping();
      link.fake.bytes.write(bytes);
      link.fake.bytes.end();
      await expect(ping).rejects.toBeInstanceOf(DomainError);
      expect(await link.agent.closed).toMatchObject({ code: "machine_failed" });
    }),
    { numRuns: 100 },
  );
});
