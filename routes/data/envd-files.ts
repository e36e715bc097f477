/**
 * `/files`: whole files in and out of a sandbox, streamed end to end in both directions (docs/compatibility.md#files).
 */
import { posix } from "node:path";
import { Readable } from "node:stream";
import { createGunzip, createGzip } from "node:zlib";
import multipart, { type MultipartFile } from "@fastify/multipart";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Clock } from "../../src/clock.ts";
import { contentDispositionOf, contentTypeOf } from "../../src/envd/content-types.ts";
import { type Download, describeUpload, metadataOf, openDownload, uploadFile } from "../../src/envd/files.ts";
import { DomainError, messageOf } from "../../src/errors.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";
import type { FileEntry } from "../../src/types.ts";
import { whileClientStays } from "../http/client-leave.ts";
import { resetConnection } from "../http/connection-reset.ts";
import { sendError } from "../http/errors.ts";
import { checkFileAccess } from "./access.ts";

const streamBufferBytes = 256 * 1024;
/** The limit of files in one upload, because its answer names each of them. */
const maxFilesPerUpload = 10_000;
/** A file may be a web page, which must not act as a page of this daemon. */
const isolationHeaders = { "content-security-policy": "sandbox", "x-content-type-options": "nosniff" } as const;

export interface EnvdFilesDeps {
  readonly clock: Clock;
  readonly sessionOf: (request: FastifyRequest) => Session;
}

interface FileQuery {
  readonly path: string | undefined;
  /** Undefined: the sandbox's default user. */
  readonly username: string | undefined;
}

export async function envdFiles(app: FastifyInstance, { clock, sessionOf }: EnvdFilesDeps): Promise<void> {
  // The handlers stream bodies, so no parser reads or limits them.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (_request, _payload, done) => done(null));
  await app.register(multipart, {
    throwFileSizeLimit: false,
    preservePath: true,
    // A file with its path in the query needs no name. Other parts stream past instead of being held in memory.
    isPartAFile: () => true,
    limits: {
      fileSize: Number.POSITIVE_INFINITY,
      files: maxFilesPerUpload,
      parts: maxFilesPerUpload,
      headerPairs: 100,
    },
  });
  app.addHook("preHandler", async (request) => checkFileAccess(request, sessionOf(request).accessToken, clock.nowMs()));

  // These routes check access themselves, because they accept a signature too.
  const config = { access: "open" } as const;
  app.route({
    method: ["GET", "HEAD"],
    url: "/files",
    config,
    handler: async (request, reply) => {
      const { path, username } = queryOf(request);
      const wanted = { headers: request.headers, body: request.method === "GET" };
      return sendDownload(reply, await openDownload(sessionOf(request), path ?? "", username, wanted));
    },
  });

  app.post("/files", { config }, async (request, reply) => {
    try {
      const entries = await whileClientStays(reply, (gone) => receiveFiles(request, sessionOf(request), gone));
      return entries.map(describeUpload);
    } finally {
      // The rest of a refused upload is read and dropped, so that the client reads the answer.
      request.raw.unpipe();
      request.raw.resume();
    }
  });
}

async function receiveFiles(request: FastifyRequest, session: Session, signal: AbortSignal): Promise<FileEntry[]> {
  const mediaType = (request.headers["content-type"] ?? "").split(";", 1)[0]?.trim().toLowerCase();
  const { path, username } = queryOf(request);
  const options = { user: username, attributes: metadataOf(request.headers), signal };
  switch (mediaType) {
    case "multipart/form-data":
      if (encodingOf(request) !== "identity") {
        throw new DomainError(
          "invalid_argument",
          "a multipart body must not be encoded: send application/octet-stream",
        );
      }
      return receiveParts(request, session, path, options);
    case "application/octet-stream":
      if (path === undefined) throw new DomainError("invalid_argument", "the query parameter 'path' is required");
      return [await receiveBody(request, session, path, options)];
    default:
      throw new DomainError(
        "invalid_argument",
        `unsupported content type '${mediaType}': use multipart/form-data or application/octet-stream`,
      );
  }
}

type UploadOptions = Parameters<typeof uploadFile>[3];

/** Receives every part named `file`. Its target is the `path` of the query, or else its whole file name. */
async function receiveParts(
  request: FastifyRequest,
  session: Session,
  queryPath: string | undefined,
  options: UploadOptions,
): Promise<FileEntry[]> {
  const entries: FileEntry[] = [];
  const targets = new Set<string>();
  for await (const part of partsOf(request)) {
    // The file name of a part without one is undefined, against its type.
    const path: string | undefined = queryPath ?? part.filename;
    if (part.fieldname !== "file") {
      part.file.resume();
      continue;
    }
    if (!path) throw new DomainError("invalid_argument", "a file needs a 'path' query parameter or a file name");
    claimTarget(targets, posix.normalize(path), path);
    const entry = await uploadFile(session, path, readableBytes(part.file), options);
    if (entry.path !== posix.normalize(path)) claimTarget(targets, entry.path, path);
    entries.push(entry);
  }
  return entries;
}

/** The parts of a body. Failures of the parser are the client's mistakes; errors of the reader do not pass here. */
async function* partsOf(request: FastifyRequest): AsyncGenerator<MultipartFile> {
  try {
    yield* request.files();
  } catch (error) {
    throw unreadable(error);
  }
}

function claimTarget(targets: Set<string>, target: string, path: string): void {
  if (targets.has(target)) {
    throw new DomainError("invalid_argument", `you cannot upload multiple files to the same path '${path}' at once`);
  }
  targets.add(target);
}

async function receiveBody(
  request: FastifyRequest,
  session: Session,
  path: string,
  options: UploadOptions,
): Promise<FileEntry> {
  const encoding = encodingOf(request);
  if (encoding === "identity") return uploadFile(session, path, readableBytes(request.raw), options);
  if (encoding !== "gzip") throw new DomainError("invalid_argument", `unsupported content encoding '${encoding}'`);
  const unzipped = createGunzip({ chunkSize: 64 * 1024 });
  // `pipeline` would destroy the request, and with it the connection that the answer needs.
  request.raw.on("error", (error) => unzipped.destroy(error));
  request.raw.pipe(unzipped);
  try {
    return await uploadFile(session, path, readableBytes(unzipped), options);
  } finally {
    unzipped.destroy();
  }
}

function encodingOf({ headers }: FastifyRequest): string {
  return (headers["content-encoding"] ?? "identity").trim().toLowerCase();
}

/**
 * The bytes of a client's stream, which stays usable when its reader leaves early. Its failures are the client's
 * mistakes.
 */
function readableBytes(stream: Readable): AsyncIterable<Uint8Array> {
  return {
    [Symbol.asyncIterator]() {
      const iterator: AsyncIterator<Uint8Array> = stream.iterator({ destroyOnReturn: false });
      return {
        next: () =>
          iterator.next().catch((error: unknown) => {
            throw unreadable(error);
          }),
        return: async () => (await iterator.return?.()) ?? { done: true, value: undefined },
      };
    },
  };
}

function unreadable(error: unknown): DomainError {
  const isGzip = error instanceof Error && "code" in error && String(error.code).startsWith("Z_");
  const message = isGzip ? "the body is not valid gzip" : `the body cannot be read: ${messageOf(error)}`;
  return new DomainError("invalid_argument", message, {}, { cause: error });
}

function sendDownload(reply: FastifyReply, { plan, entry, sizeBytes, bytes }: Download): FastifyReply {
  reply.headers({ ...isolationHeaders, vary: "Accept-Encoding" });
  const described = {
    "last-modified": new Date(Number(entry.modifiedNs / 1_000_000n)).toUTCString(),
    "content-disposition": contentDispositionOf(entry.name),
    "content-type": contentTypeOf(entry.name),
  };
  switch (plan.kind) {
    case "whole":
      return sendWhole(reply.headers(described), plan.encoding, sizeBytes, bytes);
    case "range":
      reply.code(206).headers({
        ...described,
        "accept-ranges": "bytes",
        "content-range": `bytes ${plan.offset}-${plan.offset + plan.length - 1}/${entry.sizeBytes}`,
        "content-length": String(plan.length),
      });
      return reply.send(streamTo(reply, bytes));
    case "not_modified":
      return reply.code(304).header("last-modified", described["last-modified"]).send();
    case "precondition_failed":
      return sendError(reply, 412, "the file does not meet the request's conditions");
    case "unsatisfiable":
      return sendError(
        reply.header("content-range", `bytes */${entry.sizeBytes}`),
        416,
        "the range is outside the file",
      );
    case "not_acceptable":
      return sendError(reply, 406, "no acceptable content encoding: supported are identity and gzip");
    default:
      return plan satisfies never;
  }
}

function sendWhole(
  reply: FastifyReply,
  encoding: "identity" | "gzip",
  sizeBytes: number | undefined,
  bytes: AsyncIterable<Uint8Array> | undefined,
): FastifyReply {
  if (encoding === "identity" || sizeBytes === 0) {
    if (sizeBytes !== undefined) reply.headers({ "accept-ranges": "bytes", "content-length": String(sizeBytes) });
    return reply.send(streamTo(reply, bytes));
  }
  const zipped = createGzip({ level: 1, chunkSize: 64 * 1024 });
  const plain = streamTo(reply, bytes);
  plain.on("error", (error) => zipped.destroy(error));
  zipped.on("close", () => plain.destroy());
  return reply.header("content-encoding", "gzip").send(plain.pipe(zipped));
}

/** The bytes as a stream. When they end too early, so does the connection, by a reset. */
function streamTo(reply: FastifyReply, bytes: AsyncIterable<Uint8Array> | undefined): Readable {
  const stream = Readable.from(bytes ?? [], { objectMode: false, highWaterMark: streamBufferBytes });
  stream.once("error", (error) => {
    reply.log.debug({ err: error }, "a download is cut short");
    if (reply.raw.headersSent) resetConnection(reply.request.raw.socket);
  });
  return stream;
}

/** @throws invalid_argument when a parameter is given twice. */
function queryOf(request: FastifyRequest): FileQuery {
  const query = request.query as Readonly<Record<string, unknown>>;
  const one = (name: string): string | undefined => {
    const value = query[name];
    if (value === undefined || value === "") return undefined;
    if (typeof value === "string") return value;
    throw new DomainError("invalid_argument", `the query parameter '${name}' is given more than once`);
  };
  return { path: one("path"), username: one("username") };
}
