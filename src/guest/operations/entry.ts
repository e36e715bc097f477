/** Entries: the fields of an ENTRY, decoded to a {@link FileEntry}. */
import type { EntryKind, FileEntry } from "../../types.ts";
import type { Fields } from "../link/fields.ts";
import { protocolError, Tag } from "../link/protocol.ts";

const kinds: readonly EntryKind[] = ["unknown", "file", "directory", "other"];

/** @throws DomainError `machine_failed` when a field is missing or wrong. */
export function decodeEntry(fields: Fields): FileEntry {
  const number = fields.integer(Tag.kind);
  const kind = kinds[number];
  if (kind === undefined) throw protocolError(`entry kind ${number}`);
  const linkTarget = fields.optionalString(Tag.linkTarget);
  return {
    name: fields.string(Tag.name),
    kind,
    path: fields.string(Tag.path),
    sizeBytes: fields.integer(Tag.size),
    mode: fields.integer(Tag.mode),
    owner: fields.string(Tag.owner),
    group: fields.string(Tag.group),
    modifiedNs: fields.signed(Tag.modifiedNs),
    ...(linkTarget !== undefined && { linkTarget }),
    attributes: Object.fromEntries(
      fields.groups(Tag.xattr).map((xattr) => [xattr.string(Tag.name), xattr.string(Tag.value)]),
    ),
  };
}

/** The entry in a RESULT or an event. */
export function entryOf(fields: Fields): FileEntry {
  return decodeEntry(fields.group(Tag.entry));
}
