/**
 * The sandbox proxy passes HTTP requests and upgrades (WebSockets) to ports inside a sandbox, through the guest link.
 * Each request has a guest connection of its own, because dialling is one message on a link that is open already.
 */
import { type ClientRequest, request as httpRequest, type IncomingMessage, STATUS_CODES } from "node:http";
import { type Duplex, pipeline } from "node:stream";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { Session } from "../../src/runtime/sessions/session.ts";
import { resetConnection } from "../http/connection-reset.ts";
import { whenSessionEnds } from "../http/session-end.ts";
import { dialPort } from "./port-dial.ts";
import { answerHeaders, headText, isReason, problemOfAnswer, type RawHeaders, requestHeaders } from "./port-heads.ts";
import { type PortRefusal, portClosed, renderRefusal } from "./port-pages.ts";

/** Passes a request on to a port of the sandbox and its answer back, streaming both. */
export async function proxyRequest(
  request: FastifyRequest,
  reply: FastifyReply,
  session: Session,
  port: number,
): Promise<FastifyReply> {
  const gone = whenClosed(reply.raw);
  const dialled = await dialPort(session, port, gone);
  if ("refusal" in dialled) return sendRefusal(reply, dialled.refusal);
  const { connection } = dialled;
  // The client may have left while the port was dialled.
  if (gone.aborted) connection.destroy();
  // Not one listener more at the answer: Node warns of a leak from the eleventh on.
  else gone.addEventListener("abort", () => connection.destroy(), { once: true });
  const headers = requestHeaders(request.raw, session.ingress, port, "message");
  const upstream = openRequest(request.raw, connection, headers);
  const answer = await answerOf(upstream, request.raw).catch((error: unknown) => {
    request.log.debug({ err: error, port }, "the port inside the sandbox did not answer in HTTP");
    connection.destroy();
    return undefined;
  });
  if (!answer) return sendRefusal(reply, portClosed(session.sandboxId, port));
  reply.hijack();
  try {
    sendAnswer(answer, connection, reply.raw);
  } catch (error) {
    request.log.debug({ err: error, port }, "the answer of the port inside the sandbox cannot be passed on");
    connection.destroy();
    resetConnection(request.raw.socket);
  }
  return reply;
}

/** Sends the head of the service's answer and streams its body. A body that is cut short is cut for the client, too. */
function sendAnswer(answer: IncomingMessage, connection: Duplex, response: FastifyReply["raw"]): void {
  const cut = () => resetConnection(response.socket);
  answer.once("error", cut);
  // Node takes a body that ends with its connection for whole, however the connection ends. So this listens first.
  connection.prependOnceListener("error", () => {
    if (!answer.complete) cut();
  });
  response.writeHead(answer.statusCode ?? 502, answer.statusMessage, answerHeaders(answer, "message"));
  // Sends the head now. `flushHeaders` would do so in UTF-8, and headers are latin1.
  response.write(Buffer.alloc(0));
  pipeline(answer, response, () => connection.destroy());
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
  const cut = () => {
    resetConnection(socket);
    connection.destroy();
  };
  const forget = whenSessionEnds(session, cut);
  socket.once("close", () => {
    forget();
    connection.destroy();
  });
  const upstream = openRequest(request, connection, requestHeaders(request, session.ingress, port, "upgrade"));
  let isAnswered = false;
  const giveUp = () => {
    if (isAnswered) return cut();
    isAnswered = true;
    connection.destroy();
    refuseUpgrade(socket, request, portClosed(session.sandboxId, port));
  };
  connection.prependOnceListener("error", giveUp);
  upstream.on("error", giveUp).on("close", () => isAnswered || giveUp());
  upstream.on("response", (answer) => {
    if (problemOfAnswer(answer)) return giveUp();
    isAnswered = true;
    answer.once("error", cut);
    const headers = answerHeaders(answer, "message");
    socket.write(headText(answer, [...headers, "Connection", "close"]), "latin1");
    pipeline(answer, socket, () => connection.destroy());
  });
  upstream.on("upgrade", (answer, guestSocket, guestHead) => {
    if (!isReason(answer.statusMessage ?? "")) return giveUp();
    isAnswered = true;
    socket.write(headText(answer, answerHeaders(answer, "upgrade")), "latin1");
    socket.write(guestHead);
    guestSocket.write(head);
    guestSocket.on("error", cut).on("close", () => socket.destroy());
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

/** A request on a connection that is open already. */
function openRequest({ method, url }: IncomingMessage, connection: Duplex, headers: RawHeaders): ClientRequest {
  const upstream = httpRequest({ createConnection: () => connection, method, path: url, headers, setHost: false });
  // No header is left out, however many there are: the size of the head is the limit.
  upstream.maxHeadersCount = 0;
  return upstream;
}

/** Sends the body and waits for the head of an answer that can be passed on. */
function answerOf(upstream: ClientRequest, body: IncomingMessage): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    upstream.on("response", (answer) => {
      const problem = problemOfAnswer(answer);
      if (problem === undefined) resolve(answer);
      else reject(new Error(problem));
    });
    upstream.on("upgrade", () => reject(new Error("the service changed to another protocol, unasked")));
    upstream.on("error", reject);
    upstream.on("close", () => reject(new Error("the connection ended before the answer")));
    body.pipe(upstream);
  });
}
