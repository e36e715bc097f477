/** Whole files in and out of a sandbox: reads, writes, their attributes, and E2B's words for what goes wrong. */
import { posix } from "node:path";
import { DomainError, isDomainError } from "../errors.ts";
import type { Session } from "../runtime/sessions/session.ts";
import type { FileEntry } from "../types.ts";
import { type DownloadPlan, dependsOnEntry, planConditional, planWhole, type RequestHeaders } from "./download-plan.ts";
import { guestStatus, reword } from "./guest-errors.ts";

const METADATA_HEADER = "x-metadata-";
const ATTRIBUTE_PREFIX = "user.e2b.";
const MAX_METADATA_KEY_BYTES = 246;
const MAX_METADATA_BYTES = 4_096;
/** Files that the kernel makes up say that they are empty (/proc) or fill a page (/sys), whatever is in them. */
const LARGEST_MADE_UP_SIZE = 4_096;

export interface Download {
  readonly plan: DownloadPlan;
  readonly entry: FileEntry;
  /** How many bytes a whole file has; undefined: that is known when they are read. */
  readonly sizeBytes: number | undefined;
  /** Exactly the planned bytes; throws when the file turns out shorter. Absent when the plan sends none. */
  readonly bytes: AsyncIterable<Uint8Array> | undefined;
}

/**
 * Opens a file for the request's headers, or only looks at it when no `body` is wanted. @throws not_found, invalid_argument (a directory), unauthenticated.
 */
export async function openDownload(
  session: Session,
  path: string,
  user: string | undefined,
  { headers, body }: { readonly headers: RequestHeaders; readonly body: boolean },
): Promise<Download> {
  const asUser = user === undefined ? {} : { user };
  try {
    if (body && !dependsOnEntry(headers)) {
      const { entry, bytes } = await session.agent.read(path, asUser);
      const plan = planWhole(headers);
      if (plan.kind === "whole") return { plan, entry, ...(await settleSize(entry.sizeBytes, bytes)) };
      await bytes[Symbol.asyncIterator]().return?.();
      return { plan, entry, sizeBytes: entry.sizeBytes, bytes: undefined };
    }
    const entry = await session.agent.stat(path, user);
    if (entry.kind === "directory") throw new DomainError("invalid_argument", `path '${entry.path}' is a directory`);
    const { sizeBytes } = entry;
    const plan = dependsOnEntry(headers) ? planConditional(headers, entry) : planWhole(headers);
    if (body && plan.kind === "whole") {
      const { bytes } = await session.agent.read(path, asUser);
      return { plan, entry, ...(await settleSize(sizeBytes, bytes)) };
    }
    if (!body || plan.kind !== "range") return { plan, entry, sizeBytes, bytes: undefined };
    const { bytes } = await session.agent.read(path, { ...asUser, offset: plan.offset, length: plan.length });
    return { plan, entry, sizeBytes, bytes: exactly(bytes, plan.length) };
  } catch (error) {
    throw rewordRead(error, path, user);
  }
}

/** Writes one file and returns its entry; parents are made. @throws invalid_argument, disk_pressure, unauthenticated. */
export async function uploadFile(
  session: Session,
  path: string,
  source: AsyncIterable<Uint8Array>,
  options: {
    readonly user: string | undefined;
    readonly attributes: Readonly<Record<string, string>>;
    readonly signal: AbortSignal;
  },
): Promise<FileEntry> {
  const { user, attributes, signal } = options;
  try {
    return await session.agent.write(path, source, { attributes, ...(user !== undefined && { user }) }, signal);
  } catch (error) {
    throw rewordWrite(error, path, user);
  }
}

/**
 * Joins files, in order, into one that replaces the destination; the sources are gone afterwards.
 * @throws not_found, invalid_argument (one is no file), disk_pressure, unauthenticated.
 */
export async function composeFile(
  session: Session,
  sources: readonly string[],
  destination: string,
  user: string | undefined,
): Promise<FileEntry> {
  try {
    return await session.agent.compose(sources, destination, user);
  } catch (error) {
    if (guestStatus(error) === "not_found") throw rewordRead(error, destination, user);
    throw rewordWrite(error, destination, user);
  }
}

/** What the client is told of an uploaded file; `metadata` only when there is some. */
export function describeUpload({ path, attributes }: FileEntry) {
  const described = { path, name: posix.basename(path), type: "file" };
  return Object.keys(attributes).length > 0 ? { ...described, metadata: attributes } : described;
}

/**
 * The attributes that `X-Metadata-<key>: value` headers ask for. The whole set is replaced by every upload.
 * @throws invalid_argument when a key or value is not printable ASCII or the set is too large.
 */
export function metadataOf(headers: RequestHeaders): Record<string, string> {
  const attributes: Record<string, string> = {};
  let totalBytes = 0;
  for (const [name, value] of Object.entries(headers)) {
    if (!name.startsWith(METADATA_HEADER) || value === undefined) continue;
    const key = name.slice(METADATA_HEADER.length);
    const text = Array.isArray(value) ? value.join(", ") : value;
    if (key === "" || key.length > MAX_METADATA_KEY_BYTES) {
      throw new DomainError("invalid_argument", `metadata keys must have 1 to ${MAX_METADATA_KEY_BYTES} bytes`);
    }
    if (!/^[\x20-\x7e]*$/.test(text) || !/^[\x21-\x7e]+$/.test(key)) {
      throw new DomainError("invalid_argument", `metadata '${key}' must be printable ASCII`);
    }
    totalBytes += ATTRIBUTE_PREFIX.length + key.length + text.length;
    attributes[key] = text;
  }
  if (totalBytes > MAX_METADATA_BYTES) {
    throw new DomainError("invalid_argument", `metadata must not take more than ${MAX_METADATA_BYTES} bytes in all`);
  }
  return attributes;
}

/** What a file has, read ahead when it is so little that its size may be made up. */
async function settleSize(
  sizeBytes: number,
  bytes: AsyncIterable<Uint8Array>,
): Promise<Pick<Download, "sizeBytes" | "bytes">> {
  if (sizeBytes > LARGEST_MADE_UP_SIZE) return { sizeBytes, bytes: exactly(bytes, sizeBytes) };
  const source = bytes[Symbol.asyncIterator]();
  const head: Uint8Array[] = [];
  let headBytes = 0;
  while (headBytes <= LARGEST_MADE_UP_SIZE) {
    const result = await source.next();
    if (result.done) return { sizeBytes: headBytes, bytes: withHead(head, source) };
    head.push(result.value);
    headBytes += result.value.byteLength;
  }
  const all = withHead(head, source);
  return sizeBytes === 0 ? { sizeBytes: undefined, bytes: all } : { sizeBytes, bytes: exactly(all, sizeBytes) };
}

/** `head`, then the rest. Not a generator: `return` must pass through while a `next` is under way. */
function withHead(head: Uint8Array[], rest: AsyncIterator<Uint8Array>): AsyncIterable<Uint8Array> {
  return {
    [Symbol.asyncIterator]: () => ({
      next: async () => {
        const value = head.shift();
        return value ? { done: false, value } : rest.next();
      },
      return: async () => (await rest.return?.()) ?? { done: true, value: undefined },
    }),
  };
}

/** Exactly `length` bytes of a file that may grow or shrink while it is read: the length was promised already. */
function exactly(bytes: AsyncIterable<Uint8Array>, length: number): AsyncIterable<Uint8Array> {
  return {
    [Symbol.asyncIterator]() {
      const source = bytes[Symbol.asyncIterator]();
      let left = length;
      const leave = async (): Promise<IteratorResult<Uint8Array>> => {
        await source.return?.();
        return { done: true, value: undefined };
      };
      return {
        next: async () => {
          if (left === 0) return leave();
          const result = await source.next();
          if (result.done) throw new DomainError("failed_precondition", "the file became shorter while it was read");
          const value = result.value.byteLength > left ? result.value.subarray(0, left) : result.value;
          left -= value.byteLength;
          return { done: false, value };
        },
        return: leave,
      };
    },
  };
}

function rewordRead(error: unknown, path: string, user: string | undefined): unknown {
  const shown = pathOf(error) ?? path;
  switch (guestStatus(error)) {
    case "not_found":
      return reword(error, "not_found", `path '${shown}' does not exist`);
    case "is_a_directory":
      return reword(error, "invalid_argument", `path '${shown}' is a directory`);
    case "unauthenticated":
      return rewordUnknownUser(error, user);
    default:
      return error;
  }
}

function rewordWrite(error: unknown, path: string, user: string | undefined): unknown {
  switch (guestStatus(error)) {
    case "is_a_directory":
      return reword(error, "invalid_argument", `path is a directory: ${pathOf(error) ?? path}`);
    case "no_space":
      return reword(error, "disk_pressure", "not enough disk space available");
    case "unauthenticated":
      return rewordUnknownUser(error, user);
    default:
      return error;
  }
}

function rewordUnknownUser(error: unknown, user: string | undefined): DomainError {
  return reword(error, "unauthenticated", `error looking up user '${user ?? ""}': unknown user`);
}

function pathOf(error: unknown): string | undefined {
  if (!isDomainError(error)) return undefined;
  const { path } = error.details;
  return typeof path === "string" ? path : undefined;
}
