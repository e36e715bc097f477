/** Entry info: a file-system entry of a guest as E2B shows it. */
import { create } from "@bufbuild/protobuf";
import { type Timestamp, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { type EntryInfo, EntryInfoSchema, FileType } from "../e2b/gen/filesystem/filesystem_pb.ts";
import type { FileEntry } from "../types.ts";

const fileTypes: Record<FileEntry["kind"], FileType> = {
  unknown: FileType.UNSPECIFIED,
  other: FileType.UNSPECIFIED,
  file: FileType.FILE,
  directory: FileType.DIRECTORY,
};

const nsPerSecond = 1_000_000_000n;

export function toEntryInfo(entry: FileEntry): EntryInfo {
  return create(EntryInfoSchema, {
    name: entry.name,
    type: fileTypes[entry.kind],
    path: entry.path,
    size: BigInt(entry.sizeBytes),
    mode: entry.mode & 0o777,
    permissions: permissionsOf(entry),
    owner: entry.owner,
    group: entry.group,
    modifiedTime: toTimestamp(entry.modifiedNs),
    ...(entry.linkTarget !== undefined && { symlinkTarget: entry.linkTarget }),
    metadata: { ...entry.attributes },
  });
}

/** The permissions in Go's notation: `-rw-r--r--`, `drwxr-xr-x`, `dtrwxrwxrwx`; a link is `L` and its target's bits. */
export function permissionsOf({ kind, mode, linkTarget }: Pick<FileEntry, "kind" | "mode" | "linkTarget">): string {
  let prefix = "";
  if (linkTarget !== undefined) {
    prefix = "L";
  } else {
    if (kind === "directory") prefix += "d";
    if (mode & 0o4000) prefix += "u";
    if (mode & 0o2000) prefix += "g";
    if (mode & 0o1000) prefix += "t";
  }
  const bits = [...(mode & 0o777).toString(2).padStart(9, "0")];
  return (prefix || "-") + bits.map((bit, index) => (bit === "1" ? ("rwx"[index % 3] ?? "") : "-")).join("");
}

export function toTimestamp(ns: bigint): Timestamp {
  const nanos = ((ns % nsPerSecond) + nsPerSecond) % nsPerSecond;
  return create(TimestampSchema, { seconds: (ns - nanos) / nsPerSecond, nanos: Number(nanos) });
}
