import { describe, expect, test } from "vitest";
import { negotiateEncoding, planConditional } from "../../src/envd/download-plan.ts";

const entry = { sizeBytes: 10, modifiedNs: 1_700_000_000_500_000_000n };
const at = (offsetS: number) => new Date((1_700_000_000 + offsetS) * 1000).toUTCString();
const whole = { kind: "whole", encoding: "identity" };

describe("ranges", () => {
  test.each([
    ["bytes=0-3", { kind: "range", offset: 0, length: 4 }],
    ["bytes=5-", { kind: "range", offset: 5, length: 5 }],
    ["bytes=8-99", { kind: "range", offset: 8, length: 2 }],
    ["bytes=-3", { kind: "range", offset: 7, length: 3 }],
    ["bytes=-99", { kind: "range", offset: 0, length: 10 }],
    ["bytes=10-", { kind: "unsatisfiable" }],
    ["bytes=-0", { kind: "unsatisfiable" }],
    ["bytes=3-2", whole],
    ["bytes=0-1,3-4", whole],
    ["lines=0-1", whole],
    ["bytes=-", whole],
  ])("%s", (range, plan) => {
    expect(planConditional({ range }, entry)).toEqual(plan);
  });

  test.each(["bytes=0-", "bytes=-3", "bytes=0-0"])("%s of an empty file is all of it", (range) => {
    expect(planConditional({ range }, { ...entry, sizeBytes: 0 })).toEqual(whole);
  });

  test("hold only for the version that If-Range names", () => {
    const range = "bytes=0-0";
    expect(planConditional({ range, "if-range": at(0) }, entry)).toMatchObject({ kind: "range" });
    expect(planConditional({ range, "if-range": at(-1) }, entry)).toEqual(whole);
    expect(planConditional({ range, "if-range": '"etag"' }, entry)).toEqual(whole);
  });
});

test.each([
  [{ "if-modified-since": at(0) }, "not_modified"],
  [{ "if-modified-since": at(-1) }, "whole"],
  [{ "if-modified-since": "nonsense" }, "whole"],
  [{ "if-none-match": "*" }, "not_modified"],
  [{ "if-none-match": '"x"', "if-modified-since": at(9) }, "whole"],
  [{ "if-unmodified-since": at(0) }, "whole"],
  [{ "if-unmodified-since": at(-1) }, "precondition_failed"],
  [{ "if-match": '"x"' }, "precondition_failed"],
  [{ "if-match": "*", "if-unmodified-since": at(-1) }, "whole"],
])("conditions %j", (headers, kind) => {
  expect(planConditional(headers, entry).kind).toBe(kind);
});

test.each([
  [undefined, "identity"],
  ["", "identity"],
  ["gzip", "gzip"],
  ["gzip, deflate, br", "identity"],
  ["gzip, identity;q=0", "gzip"],
  ["*", "identity"],
  ["identity;q=0, *", "gzip"],
  ["br", "identity"],
  ["br, identity;q=0", undefined],
  ["*;q=0", undefined],
  ["gzip;q=0", "identity"],
])("Accept-Encoding %s is answered with %s", (header, encoding) => {
  expect(negotiateEncoding(header)).toBe(encoding);
});
