/** The daemon's half of the helper's protocol, held against the corpus that the helper's own tests run over too. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { z } from "zod";
import { decodeHelperMessage, requestSchema, toDomainError } from "../../../src/machine/vz/helper-messages.ts";
import { LineDecoder } from "../../../src/machine/vz/line-decoder.ts";

const corpusSchema = z.object({
  requests: z.object({
    good: z.array(z.string()),
    bad: z.array(z.object({ name: z.string(), line: z.string(), code: z.string() })),
  }),
  replies: z.object({
    good: z.array(z.string()),
    bad: z.array(z.object({ name: z.string(), line: z.string() })),
  }),
  streams: z.array(
    z.object({
      name: z.string(),
      text: z.string().optional(),
      repeat: z.tuple([z.string(), z.number()]).optional(),
      end: z.string().optional(),
      lines: z.union([z.array(z.string()), z.number()]).optional(),
      error: z.literal(true).optional(),
    }),
  ),
});
const corpusPath = new URL("../../corpus/helper/corpus.json", import.meta.url);
const { requests, replies, streams } = corpusSchema.parse(JSON.parse(readFileSync(corpusPath, "utf8")));

function parseRequest(line: string): boolean {
  try {
    return requestSchema.safeParse(JSON.parse(line)).success;
  } catch (error) {
    if (error instanceof SyntaxError) return false;
    throw error;
  }
}

describe("messages", () => {
  test.each(requests.good)("a request: %s", (line) => expect(parseRequest(line)).toBe(true));
  test.each(requests.bad)("no request: $name", ({ line }) => expect(parseRequest(line)).toBe(false));
  test.each(replies.good)("a message of the helper: %s", (line) => {
    const sent = JSON.parse(line) as Record<string, unknown>;
    const { kind, ...message } = decodeHelperMessage(line);
    expect(kind).toBe("event" in sent ? "event" : sent.ok ? "success" : "failure");
    for (const [key, value] of Object.entries(message)) if (value !== undefined) expect(value).toEqual(sent[key]);
  });
  test.each(replies.bad)("no message of the helper: $name", ({ line }) => {
    expect(() => decodeHelperMessage(line)).toThrow(expect.objectContaining({ code: "machine_failed" }));
  });
});

describe("lines", () => {
  test.each(streams)("$name", ({ text, repeat, end = "", lines, error }) => {
    const bytes = Buffer.from(text ?? `${(repeat?.[0] ?? "").repeat(repeat?.[1] ?? 0)}${end}`);
    for (const cut of [1, 3, 7, 65_536, bytes.length + 1]) {
      // Only short lines are sent byte by byte.
      if (bytes.length / cut > 100_000) continue;
      const decode = () => {
        const decoder = new LineDecoder();
        const found: string[] = [];
        for (let at = 0; at < bytes.length; at += cut) found.push(...decoder.take(bytes.subarray(at, at + cut)));
        return found;
      };
      if (error) expect(decode).toThrow(expect.objectContaining({ code: "machine_failed" }));
      else if (typeof lines === "number") expect(decode().length).toBe(lines);
      else expect(decode()).toEqual(lines);
    }
  });
});

test("a locked screen is a reason to try again, not a failure of the daemon", () => {
  const error = toDomainError("save", { code: "host_locked", message: "nothing can be saved: the screen is locked" });
  expect(error).toMatchObject({ code: "not_ready", message: expect.stringContaining("the screen is locked") });
});
