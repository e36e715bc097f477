/**
 * A stream to a port of the guest, opened through the helper's stream socket: `CONNECT <port>`, `OK`, and then the
 * guest's bytes.
 */
import type { Socket } from "node:net";
import { DomainError } from "../../errors.ts";
import { openSocket } from "../socket.ts";

/** The longest reply is `ERR` with its reason. */
const maxReplyBytes = 4096;

/**
 * Opens a stream to a port of the guest.
 * @throws DomainError `machine_failed` when the guest refuses (no program listens there yet), `deadline_exceeded`; the
 *   signal's reason
 */
export async function openGuestStream(
  path: string,
  port: number,
  { deadlineMs, signal }: { readonly deadlineMs: number; readonly signal?: AbortSignal | undefined },
): Promise<Socket> {
  signal?.throwIfAborted();
  const socket = await openSocket(path);
  const giveUp = (error: unknown) => void socket.destroy(error instanceof Error ? error : new Error(String(error)));
  const late = new DomainError("deadline_exceeded", `the helper did not open port ${port} within ${deadlineMs} ms`);
  const timer = setTimeout(() => giveUp(late), deadlineMs);
  const abort = () => giveUp(signal?.reason);
  signal?.addEventListener("abort", abort, { once: true });
  try {
    socket.write(`CONNECT ${port}\n`);
    const reply = await readLine(socket);
    if (reply === "OK") return socket;
    throw new DomainError("machine_failed", `port ${port} of the guest cannot be opened: ${reply}`);
  } catch (error) {
    socket.on("error", () => {});
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

/**
 * Reads one line and leaves the bytes after it in the socket. It uses no `data` listener, because a socket that was
 * ever paused or flowing would not start by itself for its next reader.
 */
function readLine(socket: Socket): Promise<string> {
  return new Promise((resolve, reject) => {
    let seen = Buffer.alloc(0);
    const onReadable = () => {
      for (let chunk: Buffer | null = socket.read(); chunk; chunk = socket.read()) seen = Buffer.concat([seen, chunk]);
      const end = seen.indexOf(10);
      if (end < 0 && seen.length <= maxReplyBytes) return;
      settle();
      if (end < 0) return reject(new DomainError("machine_failed", "the helper's reply to CONNECT has no end"));
      if (end + 1 < seen.length) socket.unshift(seen.subarray(end + 1));
      resolve(seen.toString("utf8", 0, end));
    };
    const onEnd = (error?: Error) => {
      settle();
      reject(error ?? new DomainError("machine_failed", "the helper hung up"));
    };
    const onClose = () => onEnd();
    const settle = () => {
      socket.off("readable", onReadable).off("end", onClose).off("error", onEnd).off("close", onClose);
    };
    socket.on("readable", onReadable).on("end", onClose).on("error", onEnd).on("close", onClose);
  });
}
