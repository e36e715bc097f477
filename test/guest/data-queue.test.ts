import fc from "fast-check";
import { expect, test } from "vitest";
import { DataQueue, detached } from "../../src/guest/link/data-queue.ts";

/** Bytes as text, with runs of one channel joined, as a reader sees them however they were cut. */
function joined(chunks: readonly { channel: number; bytes: Uint8Array }[]): [number, string][] {
  const runs: [number, string][] = [];
  for (const { channel, bytes } of chunks) {
    const last = runs.at(-1);
    const text = Buffer.from(bytes).toString("latin1");
    if (last?.[0] === channel) last[1] += text;
    else if (text !== "") runs.push([channel, text]);
  }
  return runs;
}

test("bytes come out in order and on their channel, however pushes and reads alternate", () => {
  const push = fc.record({
    channel: fc.integer({ min: 1, max: 2 }),
    bytes: fc.oneof(fc.uint8Array({ maxLength: 20 }), fc.uint8Array({ minLength: 900, maxLength: 3_000 })),
  });
  fc.assert(
    fc.property(fc.array(fc.option(push, { nil: "shift" as const }), { maxLength: 60 }), (steps) => {
      const queue = new DataQueue();
      const read: { channel: number; bytes: Uint8Array }[] = [];
      const take = () => {
        const chunk = queue.shift();
        if (chunk) read.push({ channel: chunk.channel, bytes: Uint8Array.from(chunk.bytes) });
        return chunk;
      };
      for (const step of steps) {
        if (step === "shift") take();
        else queue.push(step.channel, step.bytes);
      }
      while (take());
      expect(joined(read)).toEqual(joined(steps.filter((step) => step !== "shift")));
    }),
    { numRuns: 300 },
  );
});

test("bytes that were read do not change while more arrive", () => {
  const queue = new DataQueue();
  queue.push(1, Buffer.from("first"));
  const chunk = queue.shift();
  queue.push(1, Buffer.from("second"));
  expect(Buffer.from(chunk?.bytes ?? []).toString()).toBe("first");
});

test("single bytes of large chunks, channels alternating, do not keep the chunks", () => {
  const queue = new DataQueue();
  const bytes = 4_000;
  for (let i = 0; i < bytes; i++) queue.push(1 + (i % 2), new Uint8Array(65_536).subarray(7, 8));
  const buffers = new Set<ArrayBufferLike>();
  let read = 0;
  for (let chunk = queue.shift(); chunk; chunk = queue.shift()) {
    buffers.add(chunk.bytes.buffer);
    read += chunk.bytes.length;
  }
  expect(read).toBe(bytes);
  expect([...buffers].reduce((sum, buffer) => sum + buffer.byteLength, 0)).toBeLessThan(8 * bytes);
});

test("a large payload is kept without a copy, unless it would keep a much larger buffer", () => {
  const queue = new DataQueue();
  const payload = new Uint8Array(32_768);
  queue.push(0, payload);
  expect(queue.shift()?.bytes.buffer).toBe(payload.buffer);
  queue.push(0, new Uint8Array(65_536).subarray(0, 2_000));
  expect(queue.shift()?.bytes.buffer.byteLength).toBeLessThan(65_536);
});

test("detached copies slivers only", () => {
  const buffer = new Uint8Array(100);
  expect(detached(buffer.subarray(0, 50)).buffer).toBe(buffer.buffer);
  expect(detached(buffer.subarray(0, 10)).buffer.byteLength).toBe(10);
});
