/** Raw HTTP, without an SDK: every request has a connection of its own, which is closed with it. */
import { Agent, type IncomingHttpHeaders, request } from "node:http";
import { connect } from "node:net";

export interface RawAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
  /** The parsed body; undefined when the body is not JSON. */
  readonly json: unknown;
}

export interface RawRequest {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
}

const agent = new Agent({ keepAlive: false });

export function ask(url: string, { method = "GET", headers = {}, body }: RawRequest = {}): Promise<RawAnswer> {
  return new Promise((resolve, reject) => {
    const { hostname, port, pathname, search } = new URL(url);
    // Cut from the text, because a URL object would rewrite the path, which must go out as it was written.
    const path = url.slice(url.indexOf(port) + port.length) || `${pathname}${search}`;
    const asked = request({ agent, hostname, port, path, method, headers }, (answer) => {
      const chunks: Buffer[] = [];
      answer.on("data", (chunk: Buffer) => chunks.push(chunk));
      answer.once("error", reject);
      answer.once("end", () => {
        const bytes = Buffer.concat(chunks);
        const { statusCode: status = 0, headers: answered } = answer;
        resolve({ status, headers: answered, body: bytes, json: parse(bytes) });
      });
    });
    asked.once("error", reject);
    asked.end(body);
  });
}

function parse(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString());
  } catch {
    return undefined;
  }
}

/** Sends these bytes as they are and cuts the connection `afterMs` later, or as soon as the server does. */
export function sendAndCut(url: string, bytes: string | Uint8Array, afterMs: number): Promise<string> {
  return new Promise((resolve) => {
    const { hostname, port } = new URL(url);
    const socket = connect(Number(port), hostname);
    let answer = "";
    socket.on("data", (chunk) => {
      answer += chunk.toString("latin1");
    });
    // A reset ends the connection like a close.
    socket.on("error", () => {});
    const cut = setTimeout(() => socket.resetAndDestroy(), afterMs);
    socket.once("close", () => {
      clearTimeout(cut);
      resolve(answer);
    });
    socket.write(bytes);
  });
}
