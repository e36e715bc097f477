/** The file operations, except watching. */
import { DomainError } from "../../errors.ts";
import type { FileEntry } from "../../types.ts";
import type { GuestAgent, ReadStream } from "../agent.ts";
import { onAbort, throwIfAborted } from "../link/abort.ts";
import { FieldWriter } from "../link/fields.ts";
import type { FrameLink } from "../link/frame-link.ts";
import { EventKind, Operation, Tag } from "../link/protocol.ts";
import type { GuestStream } from "../link/stream.ts";
import { StreamIterator } from "../link/stream-iterator.ts";
import { decodeEntry, entryOf } from "./entry.ts";

type FileOperation = "stat" | "read" | "write" | "listDirectory" | "makeDirectory" | "move" | "remove" | "compose";

export function fileOperations(link: FrameLink): Pick<GuestAgent, FileOperation> {
  return {
    stat: async (path, user) => link.call(Operation.stat, pathFields(path, user), entryOf),

    makeDirectory: async (path, user) => link.call(Operation.makeDirectory, pathFields(path, user), entryOf),

    remove: async (path, user) => link.call(Operation.remove, pathFields(path, user), () => {}),

    move: async (source, destination, user) =>
      link.call(Operation.move, pathFields(source, user).string(Tag.destination, destination), entryOf),

    compose: async (sources, destination, user) => {
      const fields = new FieldWriter().strings(Tag.path, sources).string(Tag.destination, destination);
      return link.call(Operation.compose, fields.string(Tag.user, user), entryOf);
    },

    async read(path, options = {}): Promise<ReadStream> {
      const fields = pathFields(path, options.user);
      const stream = link.open(
        Operation.read,
        fields.integer(Tag.offset, options.offset).integer(Tag.length, options.length),
      );
      const entry = await stream.event(EventKind.entry, entryOf);
      return { entry, bytes: new StreamIterator(stream, () => stream.takeData()?.bytes) };
    },

    async write(path, source, options = {}, signal) {
      throwIfAborted(signal);
      const fields = pathFields(path, options.user).integer(Tag.mode, options.mode);
      for (const [name, value] of Object.entries(options.attributes ?? {})) {
        fields.group(Tag.xattr, new FieldWriter().string(Tag.name, name).bytes(Tag.value, value));
      }
      const iterator = source[Symbol.asyncIterator]();
      const stream = link.open(Operation.write, fields);
      using _ = onAbort(signal, (reason) => stream.reset(reason));
      await sendAll(stream, iterator);
      return await stream.result(entryOf);
    },

    listDirectory: (path, depth, user) => ({
      [Symbol.asyncIterator]() {
        const stream = link.open(Operation.listDirectory, pathFields(path, user).integer(Tag.depth, depth));
        return new StreamIterator(stream, entryReader(stream));
      },
    }),
  };
}

function pathFields(path: string, user: string | undefined): FieldWriter {
  return new FieldWriter().string(Tag.path, path).string(Tag.user, user);
}

/** Returns a function that takes entries one by one from events that hold many. */
function entryReader(stream: GuestStream): () => FileEntry | undefined {
  let entries: FileEntry[] = [];
  let at = 0;
  return () => {
    while (at === entries.length) {
      const event = stream.takeEvent(EventKind.entries, (fields) => fields.groups(Tag.entry).map(decodeEntry));
      if (event === undefined) return undefined;
      entries = event;
      at = 0;
    }
    return entries[at++];
  };
}

/**
 * Sends everything that `source` yields, then END. Returns as soon as the stream has ended, with the rest of the source
 * unread; the result of the stream says why it has ended.
 * @throws the error of the source, after resetting the stream.
 */
async function sendAll(stream: GuestStream, source: AsyncIterator<Uint8Array>): Promise<void> {
  let wake = () => {};
  void stream.ended().then(() => wake());
  let exhausted = false;
  try {
    while (stream.isOpen) {
      // Not Promise.race, because a promise that lives as long as the stream would keep a reaction of every chunk.
      const next = await new Promise<IteratorResult<Uint8Array> | undefined>((resolve, reject) => {
        wake = () => resolve(undefined);
        source.next().then(resolve, reject);
      });
      exhausted = next?.done === true;
      if (exhausted) return await stream.outlet.end();
      if (next) await stream.outlet.send(next.value);
    }
  } catch (error) {
    // Sending fails only when the stream has ended.
    if (!stream.isOpen) return;
    stream.reset(new DomainError("cancelled", "The source of the file failed", {}, { cause: error }));
    throw error;
  } finally {
    // Not awaited, because a generator returns only after its pending read, and the client may never send another byte.
    if (!exhausted) Promise.resolve(source.return?.()).catch(() => {});
  }
}
