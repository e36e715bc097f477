/** The idle body: a client announces a body and then stops sending it. */
import type { IncomingMessage } from "node:http";

/**
 * Drops the connection when no byte of the body came for `idleMs` although the daemon was ready to read. A body that
 * waits for a slow sandbox is not idle.
 */
export function dropIdleBody(request: IncomingMessage, idleMs: number): void {
  const { headers, socket } = request;
  if (headers["content-length"] === undefined && headers["transfer-encoding"] === undefined) return;
  let seen = socket.bytesRead;
  const timer = setInterval(() => {
    if (request.complete) return clearInterval(timer);
    const waits = request.readableLength === 0;
    if (waits && socket.bytesRead === seen) request.destroy();
    seen = socket.bytesRead;
  }, idleMs);
  request.once("close", () => clearInterval(timer));
}
