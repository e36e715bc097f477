/**
 * File transfers: whole files in and out of a sandbox, their attributes, and E2B's words for failures. `src/envd` is
 * the behaviour of E2B's envd on a session. It calls the session and the guest agent, and knows neither HTTP nor SQL.
 */
import { posix } from "node:path";
import { DomainError, isDomainError } from "../errors.ts";
import type { Session } from "../runtime/sessions/session.ts";
import type { FileEntry } from "../types.ts";
import { type DownloadPlan, dependsOnEntry, planConditional, planWhole, type RequestHeaders } from "./download-plan.ts";
import { guestStatus, reword } from "./guest-errors.ts";

const metadataHeader = "x-metadata-";
const attributePrefix = "user.e2b.";
const maxMetadataKeyBytes = 246;
const maxMetadataBytes = 4_096;
/** Files that the kernel makes up report a size of zero (/proc) or of a page (/sys), whatever they hold. */
const largestUnreliableSize = 4_096;

export interface Download {
  readonly plan: DownloadPlan;
  readonly entry: FileEntry;
  /** The size of a whole file; undefined: it is known when the last byte is read. */
  readonly sizeBytes: number | undefined;
  /** Exactly the planned bytes. Reading them throws when the file is shorter. Absent when the plan sends none. */
  readonly bytes: AsyncIterable<Uint8Array> | undefined;
}

/**
 * Opens a file for the request's headers, or only looks at it when no `body` is wanted.
 * @throws DomainError `not_found`; `invalid_argument` for a directory; `unauthenticated` for an unknown user
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

/**
 * Writes one file, with its parent folders, and returns its entry.
 * @throws DomainError `invalid_argument`, `disk_pressure`, `unauthenticated`; the file stays as it was
 */
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
 * @throws DomainError `not_found`; `invalid_argument` when a source is no file; `disk_pressure`; `unauthenticated`
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

/** The answer about an uploaded file, with `metadata` when it has some. */
export function describeUpload({ path, attributes }: FileEntry) {
  const described = { path, name: posix.basename(path), type: "file" };
  return Object.keys(attributes).length > 0 ? { ...described, metadata: attributes } : described;
}

/**
 * The attributes that `X-Metadata-<key>: value` headers ask for. The whole set is replaced by every upload.
 * @throws DomainError `invalid_argument` when a key or value is not printable ASCII or the set is too large
 */
export function metadataOf(headers: RequestHeaders): Record<string, string> {
  const attributes: Record<string, string> = {};
  let totalBytes = 0;
  for (const [name, value] of Object.entries(headers)) {
    if (!name.startsWith(metadataHeader) || value === undefined) continue;
    const key = name.slice(metadataHeader.length);
    const text = Array.isArray(value) ? value.join(", ") : value;
    if (key === "" || key.length > maxMetadataKeyBytes) {
      throw new DomainError("invalid_argument", `metadata keys must have 1 to ${maxMetadataKeyBytes} bytes`);
    }
    if (!/^[\x20-\x7e]*$/.test(text) || !/^[\x21-\x7e]+$/.test(key)) {
      throw new DomainError("invalid_argument", `metadata '${key}' must be printable ASCII`);
    }
    totalBytes += attributePrefix.length + key.length + text.length;
    attributes[key] = text;
  }
  if (totalBytes > maxMetadataBytes) {
    throw new DomainError("invalid_argument", `metadata must not take more than ${maxMetadataBytes} bytes in all`);
  }
  return attributes;
}

/** What a file has, read ahead when it is so little that its size may be made up. */
async function settleSize(
  sizeBytes: number,
  bytes: AsyncIterable<Uint8Array>,
): Promise<Pick<Download, "sizeBytes" | "bytes">> {
  if (sizeBytes > largestUnreliableSize) return { sizeBytes, bytes: exactly(bytes, sizeBytes) };
  const source = bytes[Symbol.asyncIterator]();
  const head: Uint8Array[] = [];
  let headBytes = 0;
  while (headBytes <= largestUnreliableSize) {
    const result = await source.next();
    if (result.done) return { sizeBytes: headBytes, bytes: withHead(head, source) };
    head.push(result.value);
    headBytes += result.value.byteLength;
  }
  const all = withHead(head, source);
  return sizeBytes === 0 ? { sizeBytes: undefined, bytes: all } : { sizeBytes, bytes: exactly(all, sizeBytes) };
}

/** `head`, then the rest. It is no generator, because `return` must pass through while a `next` is under way. */
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

/**
 * Exactly `length` bytes of a file that may grow or shrink while it is read, because the length was announced already.
 */
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
