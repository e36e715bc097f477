import fc from "fast-check";
import { expect, test } from "vitest";
import { OutputTape, tapeBytes } from "../../../src/runtime/processes/output-tape.ts";

test("the tape gives exactly the bytes from any kept offset on", () => {
  const sizes = fc.array(fc.integer({ min: 0, max: 40_000 }), { maxLength: 40 });
  fc.assert(
    fc.property(sizes, fc.double({ min: 0, max: 1, noNaN: true }), (lengths, place) => {
      const tape = new OutputTape();
      const whole: number[] = [];
      for (const length of lengths) {
        const bytes = Buffer.from(Array.from({ length }, (_, at) => (whole.length + at) % 251));
        tape.append({ channel: "stdout", bytes });
        for (const byte of bytes) whole.push(byte);
      }
      expect(tape.endOffset).toBe(whole.length);
      const offset = tape.startOffset + Math.floor(place * (tape.endOffset - tape.startOffset));
      const played = Buffer.concat(tape.from(offset).map(({ bytes }) => bytes));
      expect(played.equals(Buffer.from(whole.slice(offset)))).toBe(true);
    }),
    { numRuns: 50 },
  );
});

test("the tape is bounded, for large chunks and for a flood of tiny ones", () => {
  const large = new OutputTape();
  for (let n = 0; n < 100; n++) large.append({ channel: "stdout", bytes: Buffer.alloc(32_768) });
  expect(large.endOffset - large.startOffset).toBeGreaterThan(tapeBytes / 2);
  expect(large.endOffset - large.startOffset).toBeLessThan(tapeBytes);
  const tiny = new OutputTape();
  for (let n = 0; n < 10_000; n++) tiny.append({ channel: "stderr", bytes: Buffer.from("x") });
  expect(tiny.from(tiny.startOffset).length).toBeLessThan(tapeBytes / 100);
  expect(tiny.endOffset).toBe(10_000);
});

test("the tape keeps its own copy of the bytes", () => {
  const tape = new OutputTape();
  const bytes = Buffer.from("before");
  tape.append({ channel: "stdout", bytes });
  bytes.write("after!");
  expect(tape.from(0).map((chunk) => Buffer.from(chunk.bytes).toString())).toEqual(["before"]);
});
