/** E2B's file-system service over a session. This file knows nothing of HTTP. */
import { create } from "@bufbuild/protobuf";
import {
  type EntryInfo,
  EventType,
  type FilesystemEvent,
  FilesystemEventSchema,
  type WatchDirResponse,
  WatchDirResponseSchema,
} from "../e2b/gen/filesystem/filesystem_pb.ts";
import { DomainError } from "../errors.ts";
import type { Watch } from "../guest/agent.ts";
import type { Session } from "../runtime/sessions/session.ts";
import type { FileEvent } from "../types.ts";
import { toEntryInfo } from "./entry.ts";
import { guestStatus, reword, rewordUser } from "./guest-errors.ts";
import { type StreamOptions, withKeepalive } from "./keepalive.ts";

const maxDepth = 1_000;

const eventTypes: Record<FileEvent["kind"], EventType> = {
  create: EventType.CREATE,
  write: EventType.WRITE,
  remove: EventType.REMOVE,
  rename: EventType.RENAME,
  chmod: EventType.CHMOD,
};

export interface WatchRequest {
  readonly path: string;
  readonly recursive: boolean;
  readonly includeEntry: boolean;
  readonly allowNetworkMounts: boolean;
}

type User = string | undefined;

export function stat(session: Session, path: string, user: User): Promise<EntryInfo> {
  const missing = `file not found: ${path}`;
  return worded(user, { not_found: missing }, async () => {
    try {
      return toEntryInfo(await session.agent.stat(path, user));
    } catch (error) {
      // A path below a file does not exist, which is what a client that asks for existence wants to know.
      if (guestStatus(error) === "not_a_directory") throw reword(error, "not_found", missing);
      throw error;
    }
  });
}

export function makeDirectory(session: Session, path: string, user: User): Promise<EntryInfo> {
  const words = { already_exists: `directory already exists: ${path}` };
  return worded(user, words, async () => toEntryInfo(await session.agent.makeDirectory(path, user)));
}

export function move(session: Session, source: string, destination: string, user: User): Promise<EntryInfo> {
  return worded(user, { not_found: `source file not found: ${source}` }, async () =>
    toEntryInfo(await session.agent.move(source, destination, user)),
  );
}

export function remove(session: Session, path: string, user: User): Promise<void> {
  return worded(user, {}, () => session.agent.remove(path, user));
}

/** Entries in lexical walk order, parents before children; depth 0 means 1. The reader bounds how many it takes. */
export async function* listDirectory(
  session: Session,
  path: string,
  depth: number,
  user: User,
): AsyncGenerator<EntryInfo> {
  const words = { not_found: `path not found: ${path}`, not_a_directory: `path is not a directory: ${path}` };
  try {
    for await (const entry of session.agent.listDirectory(path, Math.min(depth || 1, maxDepth), user)) {
      yield toEntryInfo(entry);
    }
  } catch (error) {
    throw inWords(error, user, words);
  }
}

/** Starts to watch a directory. @throws DomainError `not_found`; `invalid_argument` when the path is no directory */
export function watchDirectory(session: Session, request: WatchRequest, user: User): Promise<Watch> {
  const { path, recursive, includeEntry, allowNetworkMounts } = request;
  const words = { not_found: `path not found: ${path}`, not_a_directory: `path is not a directory: ${path}` };
  const options = { recursive, includeEntry, allowNetworkMounts, ...(user !== undefined && { user }) };
  return worded(user, words, () => session.agent.watch(path, options));
}

/** The events of a directory as they happen, after a start event. The watch ends with the stream. */
export async function* watchDirectoryStream(
  session: Session,
  request: WatchRequest,
  user: User,
  options: StreamOptions,
): AsyncGenerator<WatchDirResponse> {
  const watch = await watchDirectory(session, request, user);
  const close = () => watch.close();
  options.signal.addEventListener("abort", close, { once: true });
  try {
    if (options.signal.aborted) return;
    yield create(WatchDirResponseSchema, { event: { case: "start", value: {} } });
    const keepalive = create(WatchDirResponseSchema, { event: { case: "keepalive", value: {} } });
    yield* withKeepalive(responsesOf(watch), keepalive, options);
  } finally {
    options.signal.removeEventListener("abort", close);
    close();
  }
}

export function toFilesystemEvent({ name, kind, entry }: FileEvent): FilesystemEvent {
  return create(FilesystemEventSchema, {
    name,
    type: eventTypes[kind],
    ...(entry && { entry: toEntryInfo(entry) }),
  });
}

/** It is no generator, because closing the watch must work while a `next` is under way. */
function responsesOf(watch: Watch): AsyncIterator<WatchDirResponse> {
  const events = watch.events[Symbol.asyncIterator]();
  return {
    next: async () => {
      const result = await events.next();
      if (result.done) return { done: true, value: undefined };
      const event = { case: "filesystem", value: toFilesystemEvent(result.value) } as const;
      return { done: false, value: create(WatchDirResponseSchema, { event }) };
    },
    return: async () => {
      watch.close();
      return { done: true, value: undefined };
    },
  };
}

/** Runs a guest operation and puts its failures into E2B's words, by the guest protocol's status. */
async function worded<T>(user: User, words: Readonly<Record<string, string>>, operation: () => Promise<T>): Promise<T> {
  try {
    return await operation();
  } catch (error) {
    throw inWords(error, user, words);
  }
}

function inWords(error: unknown, user: User, words: Readonly<Record<string, string>>): unknown {
  const message = words[guestStatus(error) ?? ""];
  if (message !== undefined && error instanceof DomainError) return reword(error, error.code, message);
  return rewordUser(error, user);
}
