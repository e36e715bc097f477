import { expect, test } from "vitest";
import { contentDispositionOf, contentTypeOf } from "../../src/envd/content-types.ts";
import { describeUpload, metadataOf } from "../../src/envd/files.ts";

test("content types go by the extension", () => {
  expect(contentTypeOf("a.txt")).toBe("text/plain; charset=utf-8");
  expect(contentTypeOf("A.PNG")).toBe("image/png");
  expect(contentTypeOf("Makefile")).toBe("application/octet-stream");
});

test("file names survive the Content-Disposition header", () => {
  expect(contentDispositionOf("a.txt")).toBe("inline; filename=a.txt");
  expect(contentDispositionOf('a "b".txt')).toBe('inline; filename="a \\"b\\".txt"');
  expect(contentDispositionOf("ü\r\n.txt")).toBe("inline; filename*=utf-8''%C3%BC%0D%0A.txt");
});

test("metadata headers become attributes", () => {
  expect(metadataOf({ "x-metadata-author": "me", "x-metadata-a-b": "1", host: "h" })).toEqual({
    author: "me",
    "a-b": "1",
  });
});

test.each([
  [{ "x-metadata-": "x" }, "metadata keys must have 1 to 246 bytes"],
  [{ [`x-metadata-${"k".repeat(247)}`]: "x" }, "metadata keys must have 1 to 246 bytes"],
  [{ "x-metadata-k": "ü" }, "must be printable ASCII"],
  [{ "x-metadata-k": "v".repeat(4_096) }, "must not take more than 4096 bytes"],
])("bad metadata is refused: %#", (headers, message) => {
  expect(() => metadataOf(headers)).toThrow(message);
});

test("an upload is described without empty metadata", () => {
  const entry = { path: "/a/b", attributes: {} } as never;
  expect(describeUpload(entry)).toEqual({ path: "/a/b", name: "b", type: "file" });
});
