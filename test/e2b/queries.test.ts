import fc from "fast-check";
import { expect, test } from "vitest";
import { parseMetadataFilter } from "../../src/e2b/metadata-filter.ts";
import { decodePageToken, encodePageToken } from "../../src/e2b/page-token.ts";
import { parseTemplateReference } from "../../src/e2b/template-reference.ts";
import { isDomainError } from "../../src/errors.ts";

/** As the SDKs do it, minus the outermost layer, which the server's query parser takes off. */
function encodeFilter(metadata: Record<string, string>): string {
  const encoded = Object.entries(metadata).map(([key, value]): [string, string] => [
    encodeURIComponent(key),
    encodeURIComponent(value),
  ]);
  return new URLSearchParams(encoded).toString();
}

test("a metadata filter is decoded as it is on the wire", () => {
  expect(parseMetadataFilter("k%25201=v%25261")).toEqual({ "k 1": "v&1" });
  expect(parseMetadataFilter("a=1&b=2")).toEqual({ a: "1", b: "2" });
  expect(parseMetadataFilter("a=")).toEqual({ a: "" });
  expect(parseMetadataFilter("")).toEqual({});
});

test("any pairs that a client filters by arrive unchanged", () => {
  const text = fc.string({ unit: "grapheme" });
  fc.assert(
    fc.property(fc.dictionary(text, text, { noNullPrototype: true }), (metadata) => {
      expect(parseMetadataFilter(encodeFilter(metadata))).toEqual(metadata);
    }),
  );
});

test.each(["a", "a=1=2", "a=1&", "%zz=1", "a=%25zz"])("filter %s is refused", (filter) => {
  expect(() => parseMetadataFilter(filter)).toThrow(/^Invalid metadata filter: /);
});

test("a page token leads back to its row, in its own order only", () => {
  const position = { startedAtMs: 1_767_225_600_123, id: "iaa1" };
  for (const order of ["asc", "desc"] as const) {
    const token = encodePageToken(position, order);
    expect(token).toMatch(/^[\w-]+$/);
    expect(decodePageToken(token, order)).toEqual(position);
    expect(() => decodePageToken(token, order === "asc" ? "desc" : "asc")).toThrow("Invalid next token");
  }
});

test("a page token is E2B's: a time with nanoseconds is one too", () => {
  const token = Buffer.from("2026-01-01T00:00:00.123456789Z__iaa1").toString("base64url");
  expect(decodePageToken(token, "desc")).toEqual({ startedAtMs: 1_767_225_600_123, id: "iaa1" });
});

test("no other text is a page token", () => {
  const tokens = ["", "x", "2026-13-99T99:99:99Z__iaa1", "2026-01-01T00:00:00Z__", "2026-01-01T00:00:00Z__iaa1__desc"];
  for (const text of tokens) {
    expect(() => decodePageToken(Buffer.from(text).toString("base64url"), "desc")).toThrow("Invalid next token");
  }
  fc.assert(
    fc.property(fc.string(), (text) => {
      expect(() => decodePageToken(text, "desc")).toThrow("Invalid next token");
    }),
  );
});

test.each([
  ["base", { name: "base", tag: undefined }],
  [" Base ", { name: "base", tag: undefined }],
  ["base:v1.2", { name: "base", tag: "v1.2" }],
  ["local/base:default", { name: "base", tag: "default" }],
  ["acme/base", { name: "acme/base", tag: undefined }],
])("template reference %s", (text, expected) => {
  expect(parseTemplateReference(text)).toEqual(expected);
});

test.each([
  "",
  ":",
  "a:",
  "a:b:c",
  "a/b/c",
  "/a",
  "a/",
  "ä",
  "a b",
  "a:9F3C9A2E-1B7E-4C8E-9B55-6B7A4D2C1E00",
  "a".repeat(129),
])("template reference '%s' is refused", (text) => {
  expect(() => parseTemplateReference(text)).toThrow(/^Invalid template reference: /);
});

test("any text is a template reference or refused", () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      try {
        parseTemplateReference(text);
      } catch (error) {
        expect(isDomainError(error, "invalid_argument")).toBe(true);
      }
    }),
  );
});
