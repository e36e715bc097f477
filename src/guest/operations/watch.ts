/** The watch operation: changes in folders of the guest. */
import type { FileEvent, FileEventKind } from "../../types.ts";
import type { GuestAgent } from "../agent.ts";
import { type Fields, FieldWriter } from "../link/fields.ts";
import type { FrameLink } from "../link/frame-link.ts";
import { ControlKind, EventKind, Operation, protocolError, Tag } from "../link/protocol.ts";
import type { GuestStream } from "../link/stream.ts";
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
    const hasMarks = await stream.event(EventKind.started, (started) => started.boolean(Tag.marks));
    const marks = new Marks(stream);
    const take = () => {
      for (;;) {
        const item = stream.takeAnyEvent((kind, payload) => marks.pass(kind, payload) ?? decodeEvent(kind, payload));
        if (item !== "mark") return item;
      }
    };
    const events = new StreamIterator(stream, take);
    return {
      events,
      caughtUp: () => (hasMarks ? marks.next() : Promise.resolve()),
      close: () => void events.return(),
    };
  };
}

/**
 * The marks of a watch: the host asks for one by its number, and the agent sends it back after the events of every
 * change before.
 */
class Marks {
  readonly #stream: GuestStream;
  #last = 0;
  readonly #waiting = new Map<number, () => void>();

  constructor(stream: GuestStream) {
    this.#stream = stream;
  }

  /** Asks for a mark and waits until it has been taken. */
  next(): Promise<void> {
    const number = ++this.#last;
    this.#stream.control(new FieldWriter().integer(Tag.count, number).payload(ControlKind.mark));
    return new Promise((resolve) => this.#waiting.set(number, resolve));
  }

  /** Takes an event that is a mark; undefined for another event. One mark stands for all with lower numbers. */
  pass(kind: number, fields: Fields): "mark" | undefined {
    if (kind !== EventKind.mark) return undefined;
    const reached = fields.integer(Tag.count);
    for (const [number, resolve] of this.#waiting) {
      if (number > reached) break;
      this.#waiting.delete(number);
      resolve();
    }
    return "mark";
  }
}

function decodeEvent(event: number, fields: Fields): FileEvent {
  if (event !== EventKind.changed) throw protocolError(`event ${event} of a watch`);
  const number = fields.integer(Tag.kind);
  const kind = kinds[number];
  if (kind === undefined) throw protocolError(`file event kind ${number}`);
  const entry = fields.optionalGroup(Tag.entry);
  return { name: fields.string(Tag.name), kind, ...(entry && { entry: decodeEntry(entry) }) };
}
