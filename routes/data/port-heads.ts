/**
 * Port heads: the head of a message on its way between a client and a service in a sandbox. Names keep their case and
 * repeated headers stay apart, because services and clients may tell them apart. Pure.
 */
import type { IncomingMessage } from "node:http";
import { maskedHost } from "../../src/e2b/network-options.ts";
import type { SandboxIngress } from "../../src/types.ts";
import { trafficTokenHeader } from "./access.ts";

/** Names and values in turn, as Node reads and writes them. */
export type RawHeaders = string[];

/** What happens to the connection after the head: it carries the message's body, or another protocol. */
export type HeadKind = "message" | "upgrade";

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
/** A `Connection` header that names one of these takes nothing away, because the message has no meaning without it. */
const essentialHeaders = new Set(["content-length", "host", "transfer-encoding"]);
/** What opens this daemon and its sandboxes is no business of a service in one of them. */
const keyHeaders = new Set(["x-api-key", "x-access-token", trafficTokenHeader]);
/** With these methods Node sends no framing when there is none to send. */
const bodilessMethods = new Set(["GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT"]);

/** The headers that the service in the sandbox sees. */
export function requestHeaders(
  request: Pick<IncomingMessage, "method" | "headers" | "rawHeaders">,
  { maskRequestHost }: SandboxIngress,
  port: number,
  kind: HeadKind,
): RawHeaders {
  const isMasked = maskRequestHost !== null;
  const dropped = new Set([...connectionHeaders(request, kind), ...keyHeaders, "expect", "host"]);
  if (isMasked) dropped.add("x-forwarded-host");
  // The bytes after the head of an upgrade belong to the other protocol and are no body.
  if (kind === "upgrade") dropped.add("content-length");
  const { host } = request.headers;
  const passed = isMasked ? maskedHost(maskRequestHost, port) : host;
  return [
    ...(passed === undefined ? [] : ["Host", passed]),
    ...(isMasked && host !== undefined ? ["X-Forwarded-Host", host] : []),
    ...without(request.rawHeaders, dropped),
    ...(kind === "message" ? framingOf(request) : []),
  ];
}

/** The headers of the service's answer that the client sees. Node frames the body anew where it has no length. */
export function answerHeaders(answer: Pick<IncomingMessage, "headers" | "rawHeaders">, kind: HeadKind): RawHeaders {
  return without(answer.rawHeaders, connectionHeaders(answer, kind));
}

/**
 * Why the head of an answer cannot be passed on; undefined when it can. Node reads more from a service than it writes.
 */
export function problemOfAnswer(answer: IncomingMessage): string | undefined {
  const { statusCode = 0, statusMessage = "" } = answer;
  if (statusCode < 200 || statusCode > 999) return `the status ${statusCode} is no answer to a request`;
  return isReason(statusMessage) ? undefined : "the reason phrase has control characters";
}

/** Whether a text may stand behind a status. */
export function isReason(text: string): boolean {
  return /^[\t\x20-\x7e\x80-\xff]*$/.test(text);
}

/** The head of an answer as latin1 text, for a connection that Node no longer handles as HTTP. */
export function headText({ statusCode, statusMessage }: IncomingMessage, headers: Readonly<RawHeaders>): string {
  const lines = Array.from({ length: headers.length / 2 }, (_, at) => `${headers[at * 2]}: ${headers[at * 2 + 1]}\r\n`);
  return `HTTP/1.1 ${statusCode} ${statusMessage}\r\n${lines.join("")}\r\n`;
}

/**
 * The framing of a request that has no length. A body that came in chunks goes on in chunks, whatever the method,
 * because without framing its bytes would be read as another request.
 */
function framingOf({ method = "", headers }: Pick<IncomingMessage, "method" | "headers">): RawHeaders {
  if (headers["transfer-encoding"] !== undefined) return ["Transfer-Encoding", "chunked"];
  if (headers["content-length"] !== undefined || bodilessMethods.has(method)) return [];
  return ["Content-Length", "0"];
}

/** The lower-case names of the headers that end at this connection. An upgrade is agreed on by two of them. */
function connectionHeaders({ headers }: Pick<IncomingMessage, "headers">, kind: HeadKind): Set<string> {
  const named = String(headers.connection ?? "")
    .toLowerCase()
    .split(",")
    .map((name) => name.trim())
    .filter((name) => !essentialHeaders.has(name));
  const dropped = new Set([...hopByHopHeaders, ...named]);
  if (kind === "upgrade") for (const name of ["connection", "upgrade"]) dropped.delete(name);
  return dropped;
}

function without(headers: readonly string[], dropped: ReadonlySet<string>): RawHeaders {
  const kept: RawHeaders = [];
  for (let at = 0; at + 1 < headers.length; at += 2) {
    const [name = "", value = ""] = headers.slice(at, at + 2);
    if (!dropped.has(name.toLowerCase())) kept.push(name, value);
  }
  return kept;
}
