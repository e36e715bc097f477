import { expect, test } from "vitest";
import { FileType } from "../../src/e2b/gen/filesystem/filesystem_pb.ts";
import { permissionsOf, toEntryInfo, toTimestamp } from "../../src/envd/entry.ts";
import type { FileEntry } from "../../src/types.ts";

const file: FileEntry = {
  name: "a.txt",
  kind: "file",
  path: "/home/user/a.txt",
  sizeBytes: 5,
  mode: 0o644,
  owner: "user",
  group: "1234",
  modifiedNs: 1_700_000_000_123_456_789n,
  attributes: { k: "v" },
};

test("a file", () => {
  expect(toEntryInfo(file)).toMatchObject({
    name: "a.txt",
    type: FileType.FILE,
    path: "/home/user/a.txt",
    size: 5n,
    mode: 420,
    permissions: "-rw-r--r--",
    owner: "user",
    group: "1234",
    modifiedTime: { seconds: 1_700_000_000n, nanos: 123_456_789 },
    metadata: { k: "v" },
  });
  expect(toEntryInfo(file).symlinkTarget).toBeUndefined();
});

test("a link has its target's type, a broken one none", () => {
  const link = toEntryInfo({ ...file, kind: "directory", mode: 0o755, linkTarget: "/etc" });
  expect(link).toMatchObject({ type: FileType.DIRECTORY, permissions: "Lrwxr-xr-x", symlinkTarget: "/etc" });
  expect(toEntryInfo({ ...file, kind: "unknown", linkTarget: "/no" }).type).toBe(FileType.UNSPECIFIED);
});

test.each([
  ["directory", 0o755, "drwxr-xr-x"],
  ["directory", 0o1777, "dtrwxrwxrwx"],
  ["file", 0o4755, "urwxr-xr-x"],
  ["file", 0o2070, "g---rwx---"],
  ["file", 0, "----------"],
] as const)("permissions of a %s with mode %o are %s", (kind, mode, expected) => {
  expect(permissionsOf({ kind, mode })).toBe(expected);
});

test("times before 1970 keep nanoseconds positive", () => {
  expect(toTimestamp(-1n)).toMatchObject({ seconds: -1n, nanos: 999_999_999 });
  expect(toTimestamp(-1_000_000_000n)).toMatchObject({ seconds: -1n, nanos: 0 });
});
