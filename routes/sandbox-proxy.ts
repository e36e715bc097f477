/**
 * HTTP and WebSocket requests to ports inside a sandbox, through the guest link. One guest connection per request:
 * dialling is one message on a link that is there already.
 */
import {
  type ClientRequest,
  request as httpRequest,
  type IncomingMessage,
  type RequestOptions,
  STATUS_CODES,
} from "node:http";
import { type Duplex, pipeline } from "node:stream";
import type { FastifyReply, FastifyRequest } from "fastify";
import { isDomainError } from "../src/errors.ts";
import type { Session } from "../src/runtime/session.ts";
import { whenSessionEnds } from "./session-end.ts";

/** Concern one connection, not the message (RFC 9110, 7.6.1). */
const HOP_BY_HOP = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/** Passes a request on to a port of the sandbox and its answer back, streaming both. */
export async function proxyRequest(
  request: FastifyRequest,
  reply: FastifyReply,
  session: Session,
  port: number,
): Promise<FastifyReply> {
  const connection = await dialPort(session, port);
  if (!connection) return reply.code(502).send(portClosed(session.sandboxId, port));
  reply.raw.once("close", () => connection.destroy());
  const upstream = httpRequest(optionsFor(request.raw, connection, requestHeadersOf(request.raw)));
  const answer = await answerOf(upstream, request.raw).catch((error: unknown) => {
    request.log.debug({ err: error, port }, "a port inside a sandbox did not answer in HTTP");
    connection.destroy();
    return undefined;
  });
  if (!answer) return reply.code(502).send(portClosed(session.sandboxId, port));
  reply.hijack();
  reply.raw.writeHead(answer.statusCode ?? 502, answer.statusMessage, withoutHopByHop(answer));
  reply.raw.flushHeaders();
  pipeline(answer, reply.raw, () => connection.destroy());
  return reply;
}

/** Passes an upgrade (a WebSocket) on to a port of the sandbox; both connections end together. */
export async function proxyUpgrade(
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  session: Session,
  port: number,
): Promise<void> {
  const connection = await dialPort(session, port).catch(() => undefined);
  if (!connection) {
    refuseUpgrade(socket, 502, portClosed(session.sandboxId, port));
    return;
  }
  const drop = () => {
    socket.destroy();
    connection.destroy();
  };
  const forget = whenSessionEnds(session, drop);
  socket.once("close", () => {
    forget();
    connection.destroy();
  });
  const upstream = httpRequest(optionsFor(request, connection, request.headers));
  upstream.on("error", drop);
  upstream.on("response", (answer) => {
    socket.write(headOf(answer));
    pipeline(answer, socket, drop);
  });
  upstream.on("upgrade", (answer, guestSocket, guestHead) => {
    socket.write(headOf(answer));
    socket.write(guestHead);
    guestSocket.write(head);
    guestSocket.on("error", drop).on("close", drop);
    socket.pipe(guestSocket).pipe(socket);
  });
  upstream.end();
}

/** Answers an upgrade request with a plain HTTP error and closes. */
export function refuseUpgrade(socket: Duplex, status: number, body: object): void {
  const text = JSON.stringify(body);
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ""}\r\ncontent-type: application/json; charset=utf-8\r\n` +
      `content-length: ${Buffer.byteLength(text)}\r\nconnection: close\r\n\r\n${text}`,
  );
}

/** Undefined when nothing listens on the port. */
async function dialPort(session: Session, port: number): Promise<Duplex | undefined> {
  try {
    const connection = await session.agent.dial(port);
    connection.on("error", () => connection.destroy());
    return connection;
  } catch (error) {
    if (isDomainError(error, "not_found")) return undefined;
    throw error;
  }
}

function portClosed(sandboxId: string, port: number) {
  return { sandboxId, message: "The sandbox is running but port is not open", port, code: 502 };
}

function optionsFor(
  { method, url }: IncomingMessage,
  connection: Duplex,
  headers: IncomingMessage["headers"],
): RequestOptions {
  return { createConnection: () => connection, method, path: url, headers, setHost: false } as RequestOptions;
}

/** Sends the body and waits for the head of the answer. */
function answerOf(upstream: ClientRequest, body: IncomingMessage): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    upstream.on("response", resolve);
    upstream.on("error", reject);
    body.pipe(upstream);
  });
}

/** A body that came in chunks goes on in chunks, whatever the method: unframed it would read as another request. */
function requestHeadersOf(request: IncomingMessage): IncomingMessage["headers"] {
  const { expect: _, ...headers } = withoutHopByHop(request);
  const isChunked = request.headers["transfer-encoding"] !== undefined;
  return isChunked ? { ...headers, "transfer-encoding": "chunked" } : headers;
}

function withoutHopByHop({ headers }: IncomingMessage): IncomingMessage["headers"] {
  const named = String(headers.connection ?? "")
    .toLowerCase()
    .split(",")
    .map((name) => name.trim());
  const dropped = new Set([...HOP_BY_HOP, ...named]);
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !dropped.has(name)));
}

/** The head of an answer as it came, for a connection that is no longer HTTP's. */
function headOf(answer: IncomingMessage): string {
  const lines = [`HTTP/1.1 ${answer.statusCode} ${answer.statusMessage}`];
  for (let i = 0; i + 1 < answer.rawHeaders.length; i += 2)
    lines.push(`${answer.rawHeaders[i]}: ${answer.rawHeaders[i + 1]}`);
  return `${lines.join("\r\n")}\r\n\r\n`;
}
