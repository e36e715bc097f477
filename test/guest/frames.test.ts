import fc from "fast-check";
import { expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { encodeFrame, type Frame, FrameDecoder, WelcomeScanner } from "../../src/guest/link/frames.ts";
import { FrameType, MAX_PAYLOAD } from "../../src/guest/link/protocol.ts";

const anyFrame: fc.Arbitrary<Frame> = fc
  .record({
    type: fc.constantFrom(...Object.values(FrameType)),
    channel: fc.nat(3),
    stream: fc.nat(2 ** 32 - 1),
    payload: fc.oneof(fc.uint8Array({ maxLength: 40 }), fc.uint8Array({ minLength: 2_000, maxLength: 5_000 })),
  })
  .map(({ type, channel, ...rest }) => ({ type, channel: type === FrameType.data ? channel : 0, ...rest }));

/** Cuts `bytes` at the given offsets (taken modulo the length). */
function cut(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const ends = places.map((place) => place % (bytes.length + 1)).sort((a, b) => a - b);
  return [...ends, bytes.length].map((end, i) => bytes.subarray(ends[i - 1] ?? 0, end));
}

function decodeAll(chunks: readonly Uint8Array[]): Frame[] {
  const decoder = new FrameDecoder();
  return chunks.flatMap((chunk) => [...decoder.decode(chunk)]);
}

/** A frame's bytes with some of them replaced. */
function tampered(changes: Record<number, number>, payload = Buffer.from("abc")): Buffer {
  const bytes = Buffer.concat(encodeFrame({ type: FrameType.event, channel: 0, stream: 1, payload }));
  for (const [at, value] of Object.entries(changes)) bytes[Number(at)] = value;
  return bytes;
}

test("a frame is laid out as the protocol says", () => {
  const bytes = encodeFrame({ type: FrameType.data, channel: 2, stream: 0x01020304, payload: Buffer.from("hi") });
  expect(Buffer.concat(bytes).toString("hex")).toBe("0402000001020304000000026869a5");
});

test("a large payload is handed on without a copy", () => {
  const payload = new Uint8Array(MAX_PAYLOAD);
  const parts = encodeFrame({ type: FrameType.data, channel: 0, stream: 1, payload });
  expect(parts[1]).toBe(payload);
  const whole = Buffer.concat(parts);
  const [frame] = decodeAll([whole]);
  expect(frame?.payload.buffer).toBe(whole.buffer);
});

test("any frames with any padding, cut anywhere, come out as they went in", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(anyFrame, fc.nat(30)), { maxLength: 8 }), fc.array(fc.nat()), (frames, places) => {
      const bytes = Buffer.concat(frames.flatMap(([frame, pads]) => [Buffer.alloc(pads), ...encodeFrame(frame)]));
      // As text, because comparing arrays of bytes takes longer than everything else here.
      const text = ({ payload, ...rest }: Frame) => `${JSON.stringify(rest)} ${Buffer.from(payload).toString("hex")}`;
      expect(decodeAll(cut(bytes, places)).map(text)).toEqual(frames.map(([frame]) => text(frame)));
    }),
    { numRuns: 200 },
  );
});

test("random bytes give frames or the typed error, and the same for all cuts", () => {
  const verdict = (chunks: readonly Uint8Array[]): string => {
    const decoder = new FrameDecoder();
    const seen: string[] = [];
    try {
      for (const chunk of chunks) for (const frame of decoder.decode(chunk)) seen.push(`${frame.type}:${frame.stream}`);
    } catch (error) {
      expect(error).toBeInstanceOf(DomainError);
      expect(error).toMatchObject({ code: "machine_failed" });
      seen.push(String(error));
    }
    return seen.join();
  };
  const smallBytes = fc.array(fc.oneof(fc.nat(11), fc.constant(0xa5), fc.nat(255)), { maxLength: 200 });
  fc.assert(
    fc.property(smallBytes, fc.array(fc.nat()), (values, places) => {
      const bytes = Uint8Array.from(values);
      expect(verdict(cut(bytes, places))).toBe(verdict([bytes]));
    }),
    { numRuns: 500 },
  );
});

test.each([
  ["an unknown type", tampered({ 0: 11 }), "unknown frame type 11"],
  ["a channel outside DATA", tampered({ 1: 1 }), "channel 1"],
  ["a channel above 3", tampered({ 0: 4, 1: 4 }), "channel 4"],
  ["reserved bytes", tampered({ 3: 1 }), "reserved"],
  ["a payload over the limit", tampered({ 9: 0, 10: 0x80, 11: 1 }), "32769 payload bytes"],
  ["another last byte", tampered({ 15: 0 }), "0xA5"],
])("%s is refused", (_name, bytes, message) => {
  expect(() => decodeAll([bytes])).toThrow(message);
});

test("a header that claims too much is refused before its payload arrives", () => {
  expect(() => decodeAll([tampered({ 8: 0xff }).subarray(0, 12)])).toThrow("payload bytes");
});

test("the scanner finds the WELCOME with our nonce in any garbage, cut anywhere", () => {
  const nonce = Buffer.from("0123456789abcdef");
  const payload = Buffer.concat([nonce, Buffer.from("fields")]);
  const welcome = Buffer.concat(encodeFrame({ type: FrameType.welcome, channel: 0, stream: 0, payload }));
  const stale = Buffer.from(welcome);
  stale[12] = 0;
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), fc.array(fc.nat()), fc.boolean(), (garbage, places, bareNonce) => {
      const before = Buffer.concat([garbage, stale, bareNonce ? nonce : stale]);
      const scanner = new WelcomeScanner(nonce);
      const found: Uint8Array[] = [];
      for (const chunk of cut(Buffer.concat([before, welcome, Buffer.from("after")]), places)) {
        if (found.length > 0) found.push(chunk);
        else {
          const rest = scanner.scan(chunk);
          if (rest) found.push(rest);
        }
      }
      expect(Buffer.concat(found).toString("latin1")).toBe(`${welcome.toString("latin1")}after`);
    }),
    { numRuns: 300 },
  );
});
