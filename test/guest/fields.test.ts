import fc from "fast-check";
import { expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { Fields, FieldWriter } from "../../src/guest/link/fields.ts";
import { MAX_OPEN, MAX_PAYLOAD, Operation, Tag } from "../../src/guest/link/protocol.ts";

/** The fields as a reader gets them. */
function reread(fields: FieldWriter): Fields {
  return Fields.decode(fields.payload(0).subarray(2));
}

test("values of every type come back", () => {
  const fields = reread(
    new FieldWriter()
      .string(Tag.path, "/tmp/ä\u{1f600}")
      .strings(Tag.argument, ["a", "", "b"])
      .integer(Tag.size, 2 ** 40 + 3)
      .integer(Tag.timeNs, 1_790_000_000_123_456_789n)
      .integer(Tag.exitCode, 2n ** 64n - 1n)
      .boolean(Tag.pty, true)
      .boolean(Tag.stdin, false)
      .bytes(Tag.value, "nul \0 is fine here")
      .group(Tag.entry, new FieldWriter().string(Tag.name, "inner")),
  );
  expect(fields.string(Tag.path)).toBe("/tmp/ä\u{1f600}");
  expect(fields.strings(Tag.argument)).toEqual(["a", "", "b"]);
  expect(fields.integer(Tag.size)).toBe(2 ** 40 + 3);
  expect(fields.signed(Tag.timeNs)).toBe(1_790_000_000_123_456_789n);
  expect(fields.signed(Tag.exitCode)).toBe(-1n);
  expect([fields.boolean(Tag.pty), fields.boolean(Tag.stdin), fields.boolean(Tag.recursive)]).toEqual([
    true,
    false,
    false,
  ]);
  expect(fields.string(Tag.value)).toBe("nul \0 is fine here");
  expect(fields.group(Tag.entry).string(Tag.name)).toBe("inner");
  expect([fields.has(Tag.path), fields.has(Tag.user)]).toEqual([true, false]);
});

test("values that are undefined are not written", () => {
  const fields = new FieldWriter()
    .string(Tag.user, undefined)
    .integer(Tag.offset, undefined)
    .boolean(Tag.pty, undefined)
    .bytes(Tag.value, undefined);
  expect(fields.payload(16)).toEqual(Buffer.of(0, 16));
});

test("the first of two fields counts where no list is meant", () => {
  const fields = reread(new FieldWriter().string(Tag.name, "first").string(Tag.name, "second"));
  expect(fields.string(Tag.name)).toBe("first");
});

test.each([
  ["a NUL in a text", () => new FieldWriter().string(Tag.path, "a\0b")],
  ["a negative number", () => new FieldWriter().integer(Tag.offset, -1)],
  ["a fraction", () => new FieldWriter().integer(Tag.offset, 1.5)],
  ["no number", () => new FieldWriter().integer(Tag.offset, Number.NaN)],
  ["a number over 64 bits", () => new FieldWriter().integer(Tag.offset, 2n ** 64n)],
  ["more than an OPEN holds", () => new FieldWriter().bytes(Tag.value, Buffer.alloc(MAX_OPEN)).openPayloads(1)],
])("%s is refused as the client's mistake", (_name, build) => {
  expect(build).toThrow(expect.objectContaining({ code: "invalid_argument" }));
});

test("long requests are cut into OPENs that together hold every field", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(70_000), { maxLength: 4 }), (sizes) => {
      const fields = new FieldWriter();
      for (const size of sizes) fields.bytes(Tag.argument, Buffer.alloc(size, 97));
      const payloads = fields.openPayloads(Operation.exec);
      const operations = payloads.map((payload) => Buffer.from(payload).readUInt16BE(0));
      expect(operations.pop()).toBe(Operation.exec);
      expect(operations.every((operation) => operation === (0x8000 | Operation.exec))).toBe(true);
      expect(payloads.every((payload) => payload.length <= MAX_PAYLOAD)).toBe(true);
      const decoded = Fields.decode(Buffer.concat(payloads.map((payload) => payload.subarray(2))));
      expect(decoded.strings(Tag.argument).map((value) => value.length)).toEqual(sizes);
    }),
    { numRuns: 30 },
  );
});

test.each([
  ["a cut header", "06000000"],
  ["a value that is cut off", "0600000003aabb"],
  ["a length over everything", "06ffffffff"],
])("%s is a broken protocol", (_name, hex) => {
  expect(() => Fields.decode(Buffer.from(hex, "hex"))).toThrow(expect.objectContaining({ code: "machine_failed" }));
});

test("fields of the wrong size and missing fields are protocol errors", () => {
  const fields = reread(new FieldWriter().bytes(Tag.pid, "short").bytes(Tag.exited, "long").bytes(Tag.entry, "x"));
  for (const read of [
    () => fields.integer(Tag.pid),
    () => fields.signed(Tag.pid),
    () => fields.boolean(Tag.exited),
    () => fields.group(Tag.entry),
    () => fields.string(Tag.path),
    () => fields.integer(Tag.size),
    () => fields.signed(Tag.modifiedNs),
  ]) {
    expect(read).toThrow(expect.objectContaining({ code: "machine_failed" }));
  }
});

test("bytes that are no UTF-8 still become a name", () => {
  const fields = reread(new FieldWriter().bytes(Tag.name, Buffer.of(0x61, 0xff, 0x62)));
  expect(fields.string(Tag.name)).toBe("a\ufffdb");
});

test("random bytes are decoded or refused with the typed error, groups in groups included", () => {
  const walk = (fields: Fields, depth: number): void => {
    for (const tag of Object.values(Tag)) {
      fields.strings(tag);
      if (depth > 0) for (const group of fields.groups(tag)) walk(group, depth - 1);
    }
  };
  const bytes = fc.array(fc.oneof(fc.nat(60), fc.constant(0)), { maxLength: 120 });
  fc.assert(
    fc.property(bytes, (values) => {
      try {
        walk(Fields.decode(Uint8Array.from(values)), 2);
      } catch (error) {
        expect(error).toBeInstanceOf(DomainError);
        expect(error).toMatchObject({ code: "machine_failed" });
      }
    }),
    { numRuns: 500 },
  );
});
