/**
 * The sandbox proxy passes HTTP requests and upgrades (WebSockets) to ports inside a sandbox, through the guest link.
 * Each request has a guest connection of its own, because dialling is one message on a link that is open already.
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
import { maskedHost } from "../../src/e2b/network-options.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";
import { whenSessionEnds } from "../http/session-end.ts";
import { trafficTokenHeader } from "./access.ts";
import { dialPort } from "./port-dial.ts";
import { type PortRefusal, portClosed, renderRefusal } from "./port-pages.ts";

/** Headers that concern one connection, not the message (RFC 9110, 7.6.1). */
const hopByHopHeaders = [
  "connection",
  "keep-alive",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
];

/** Passes a request on to a port of the sandbox and its answer back, streaming both. */
export async function proxyRequest(
  request: FastifyRequest,
  reply: FastifyReply,
  session: Session,
  port: number,
): Promise<FastifyReply> {
  const dialled = await dialPort(session, port, whenClosed(reply.raw));
  if ("refusal" in dialled) return sendRefusal(reply, dialled.refusal);
  const { connection } = dialled;
  // The client may have left while the port was dialled.
  if (reply.raw.destroyed) connection.destroy();
  else reply.raw.once("close", () => connection.destroy());
  const headers = requestHeadersOf(request.raw, session, port);
  const upstream = httpRequest(optionsFor(request.raw, connection, headers));
  const answer = await answerOf(upstream, request.raw).catch((error: unknown) => {
    request.log.debug({ err: error, port }, "the port inside the sandbox did not answer in HTTP");
    connection.destroy();
    return undefined;
  });
  if (!answer) return sendRefusal(reply, portClosed(session.sandboxId, port));
  reply.hijack();
  reply.raw.writeHead(answer.statusCode ?? 502, answer.statusMessage, withoutHopByHop(answer));
  reply.raw.flushHeaders();
  pipeline(answer, reply.raw, () => connection.destroy());
  return reply;
}

/** Passes an upgrade (a WebSocket) on to a port of the sandbox. Both connections end together. */
export async function proxyUpgrade(
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  session: Session,
  port: number,
): Promise<void> {
  const dialled = await dialPort(session, port, whenClosed(socket));
  if ("refusal" in dialled) return refuseUpgrade(socket, request, dialled.refusal);
  const { connection } = dialled;
  if (socket.destroyed) return void connection.destroy();
  const drop = () => {
    socket.destroy();
    connection.destroy();
  };
  const forget = whenSessionEnds(session, drop);
  socket.once("close", () => {
    forget();
    connection.destroy();
  });
  const { connection: asked, upgrade } = request.headers;
  // The bytes after the head belong to the other protocol and are no body.
  const { "content-length": _, "transfer-encoding": __, ...ours } = requestHeadersOf(request, session, port);
  const headers = { ...ours, connection: asked, upgrade };
  const upstream = httpRequest(optionsFor(request, connection, headers));
  upstream.on("error", drop);
  upstream.on("response", (answer) => {
    // Node has removed the framing of this body, so it goes on without one, until the connection ends.
    const { "content-length": _, ...rest } = withoutHopByHop(answer);
    socket.write(headOf(answer, { ...rest, connection: "close" }));
    pipeline(answer, socket, drop);
  });
  upstream.on("upgrade", (answer, guestSocket, guestHead) => {
    const { connection: kind, upgrade: protocol } = answer.headers;
    socket.write(headOf(answer, { ...withoutHopByHop(answer), connection: kind, upgrade: protocol }));
    socket.write(guestHead);
    guestSocket.write(head);
    guestSocket.on("error", drop).on("close", drop);
    socket.pipe(guestSocket).pipe(socket);
  });
  upstream.end();
}

/** Answers a request that does not get to its port. */
export function sendRefusal(reply: FastifyReply, refusal: PortRefusal): FastifyReply {
  const { contentType, body } = renderRefusal(refusal, reply.request.headers);
  return reply.code(refusal.code).headers({ "content-type": contentType, "cache-control": "no-store" }).send(body);
}

/** Answers an upgrade to a path at which nothing can be upgraded, and closes. */
export function refuseUnknownUpgrade(socket: Duplex, request: Pick<IncomingMessage, "headers">): void {
  refuseUpgrade(socket, request, { code: 400, message: "nothing to upgrade to here" });
}

/** Answers an upgrade that is refused with a plain HTTP error, and closes. */
export function refuseUpgrade(
  socket: Duplex,
  { headers }: Pick<IncomingMessage, "headers">,
  refusal: PortRefusal | { readonly code: number; readonly message: string },
): void {
  const { contentType, body } =
    "sandboxId" in refusal
      ? renderRefusal(refusal, headers)
      : { contentType: "application/json; charset=utf-8", body: JSON.stringify(refusal) };
  socket.end(
    `HTTP/1.1 ${refusal.code} ${STATUS_CODES[refusal.code] ?? ""}\r\ncontent-type: ${contentType}\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
  );
}

/** A signal that is aborted when the client's side is closed. */
function whenClosed(side: Duplex | FastifyReply["raw"]): AbortSignal {
  const gone = new AbortController();
  if (side.destroyed) gone.abort();
  else side.once("close", () => gone.abort());
  return gone.signal;
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

/**
 * The headers that the service in the sandbox sees. A body that came in chunks goes on in chunks, whatever the method,
 * because without framing its bytes would be read as another request.
 */
function requestHeadersOf(request: IncomingMessage, { ingress }: Session, port: number): IncomingMessage["headers"] {
  const { expect: _, [trafficTokenHeader]: __, ...headers } = withoutHopByHop(request);
  if (request.headers["transfer-encoding"] !== undefined) headers["transfer-encoding"] = "chunked";
  if (ingress.maskRequestHost !== null) {
    if (headers.host !== undefined) headers["x-forwarded-host"] = headers.host;
    headers.host = maskedHost(ingress.maskRequestHost, port);
  }
  return headers;
}

function withoutHopByHop({ headers }: IncomingMessage): IncomingMessage["headers"] {
  const named = String(headers.connection ?? "")
    .toLowerCase()
    .split(",")
    .map((name) => name.trim());
  const dropped = new Set([...hopByHopHeaders, ...named]);
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !dropped.has(name)));
}

/** The head of an answer, for a connection that Node no longer handles as HTTP. */
function headOf({ statusCode, statusMessage }: IncomingMessage, headers: IncomingMessage["headers"]): string {
  const lines = Object.entries(headers).flatMap(([name, value]) =>
    value === undefined ? [] : [value].flat().map((one) => `${name}: ${one}`),
  );
  return `HTTP/1.1 ${statusCode} ${statusMessage}\r\n${lines.map((line) => `${line}\r\n`).join("")}\r\n`;
}
