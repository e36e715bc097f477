/** Tests that the agent's decoder and the host's judge the same bytes alike: the shared corpus, and random bytes. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { beforeAll, expect, test } from "vitest";
import { encodeFrame, FrameDecoder } from "../../src/guest/link/frames.ts";
import { FrameType } from "../../src/guest/link/protocol.ts";
import { builtProgram } from "../support/guest/local-agent.ts";

interface Sample {
  readonly file: string;
  readonly about: string;
  readonly frames: readonly { type: string; channel: number; stream: number; length: number; hash: string }[];
  readonly end: { readonly error?: string };
}

const folder = fileURLToPath(new URL("../corpus/frames/", import.meta.url));
const corpus: readonly Sample[] = JSON.parse(readFileSync(`${folder}manifest.json`, "utf8"));
const names = Object.fromEntries(Object.entries(FrameType).map(([name, type]) => [type, name.toUpperCase()]));

/** The names of errors in `firkin-frame-check`, by the words of the host's decoder. */
const errors: readonly (readonly [RegExp, string])[] = [
  [/unknown frame type/, "unknown_type"],
  [/channel/, "bad_channel"],
  [/reserved/, "reserved_not_zero"],
  [/payload bytes/, "too_long"],
  [/0xA5/, "bad_end_mark"],
];

/** FNV-1a, 32 bits. */
function hash(bytes: Uint8Array): string {
  let value = 2166136261;
  for (const byte of bytes) value = Math.imul(value ^ byte, 16777619);
  return (value >>> 0).toString(16).padStart(8, "0");
}

/**
 * The verdict of the host's decoder in the words of `firkin-frame-check`, without offsets, which a stream decoder
 * lacks.
 */
function judge(bytes: Uint8Array, chunkBytes: number): string[] {
  const decoder = new FrameDecoder();
  const lines: string[] = [];
  try {
    for (let at = 0; at < bytes.length; at += chunkBytes) {
      for (const { type, channel, stream, payload } of decoder.decode(bytes.subarray(at, at + chunkBytes))) {
        const frame = `channel=${channel} stream=${stream} length=${payload.length} hash=${hash(payload)}`;
        lines.push(`${names[type]} ${frame}`);
      }
    }
    return [...lines, "end"];
  } catch (error) {
    const name = errors.find(([words]) => words.test(String(error)))?.[1];
    return [...lines, `error ${name ?? error}`];
  }
}

let frameCheck: string;
beforeAll(() => {
  frameCheck = builtProgram("firkin-frame-check");
});

function judgeInC(input: Uint8Array): string[] {
  const { stdout } = spawnSync(frameCheck, { input, encoding: "utf8" });
  return stdout
    .trimEnd()
    .split("\n")
    .map((line) => line.replace(/^(end|error \w+) \d+$/, "$1"));
}

test("the corpus has good and bad samples", () => {
  expect(corpus.filter(({ end }) => end.error === undefined).length).toBeGreaterThan(5);
  expect(corpus.filter(({ end }) => end.error !== undefined).length).toBeGreaterThan(5);
});

test.each(corpus)("both decoders judge $file ($about) as its manifest says, however it is cut", (sample) => {
  const bytes = readFileSync(`${folder}${sample.file}`);
  const verdict = sample.frames.map(
    ({ type, channel, stream, length, hash }) =>
      `${type} channel=${channel} stream=${stream} length=${length} hash=${hash}`,
  );
  verdict.push(sample.end.error === undefined ? "end" : `error ${sample.end.error}`);
  for (const chunkBytes of [1, 7, 1_000, bytes.length + 1]) expect(judge(bytes, chunkBytes)).toEqual(verdict);
  expect(judgeInC(bytes)).toEqual(verdict);
});

test("both decoders judge random bytes alike", () => {
  const frame = fc
    .record({ type: fc.integer({ min: 1, max: 10 }), stream: fc.nat(99), payload: fc.uint8Array({ maxLength: 30 }) })
    .map(({ type, stream, payload }) =>
      Buffer.concat(encodeFrame({ type: type as FrameType, channel: 0, stream, payload })),
    );
  const bytes = fc
    .tuple(fc.array(frame, { maxLength: 4 }), fc.array(fc.tuple(fc.nat(300), fc.nat(255)), { maxLength: 2 }))
    .map(([frames, changes]) => {
      const whole = Buffer.concat(frames);
      for (const [at, value] of changes) if (at < whole.length) whole[at] = value;
      return whole;
    });
  fc.assert(
    fc.property(bytes, (input) => {
      expect(judge(input, 1 + (input.length >> 1))).toEqual(judgeInC(input));
    }),
    { numRuns: 150 },
  );
});
