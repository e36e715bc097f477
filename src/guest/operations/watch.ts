/** The watch operation: changes in folders of the guest. */
import type { FileEvent, FileEventKind } from "../../types.ts";
import type { GuestAgent } from "../agent.ts";
import { type Fields, FieldWriter } from "../link/fields.ts";
import type { FrameLink } from "../link/frame-link.ts";
import { EventKind, Operation, protocolError, Tag } from "../link/protocol.ts";
import { StreamIterator } from "../link/stream-iterator.ts";
import { decodeEntry } from "./entry.ts";

/** The kinds of file events, by their numbers. */
const kinds: readonly (FileEventKind | undefined)[] = [undefined, "create", "write", "remove", "rename", "chmod"];

export function watchOperation(link: FrameLink): GuestAgent["watch"] {
  return async (path, options) => {
    const fields = new FieldWriter()
      .string(Tag.path, path)
      .string(Tag.user, options.user)
      .boolean(Tag.recursive, options.recursive)
      .boolean(Tag.includeEntry, options.includeEntry)
      .boolean(Tag.allowNetworkMounts, options.allowNetworkMounts);
    const stream = link.open(Operation.watch, fields);
    await stream.event(EventKind.started, () => true);
    const events = new StreamIterator(stream, () => stream.takeEvent(EventKind.changed, decodeEvent));
    return { events, close: () => void events.return() };
  };
}

function decodeEvent(fields: Fields): FileEvent {
  const number = fields.integer(Tag.kind);
  const kind = kinds[number];
  if (kind === undefined) throw protocolError(`file event kind ${number}`);
  const entry = fields.optionalGroup(Tag.entry);
  return { name: fields.string(Tag.name), kind, ...(entry && { entry: decodeEntry(entry) }) };
}
