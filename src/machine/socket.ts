/** Connections to the Unix sockets of an engine's processes, which bind them a moment after they start. */
import { connect, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { DomainError, messageOf } from "../errors.ts";

/** QEMU binds its sockets some 20 ms after it started. Cheap tries at this distance find that out soonest. */
const retryMs = 2;
/** Nobody listens at the path yet, or too many connections wait there. */
const passingCodes = ["ENOENT", "ECONNREFUSED", "EAGAIN"];

/**
 * Connects to `path`, and tries again while nobody listens there yet.
 * @param endMs when to give up, on the clock of `performance.now()`
 * @throws DomainError `machine_failed` when nobody listens by then; the signal's reason
 */
export async function openSocketWhenBound(path: string, endMs: number, signal?: AbortSignal): Promise<Socket> {
  for (;;) {
    signal?.throwIfAborted();
    try {
      return await openSocket(path);
    } catch (error) {
      const isPassing = passingCodes.includes((error as NodeJS.ErrnoException).code ?? "");
      if (!isPassing || performance.now() >= endMs) {
        throw new DomainError("machine_failed", `cannot connect to ${path}: ${messageOf(error)}`, {}, { cause: error });
      }
      await delay(retryMs);
    }
  }
}

/** @throws the socket's error */
export function openSocket(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.removeListener("error", reject);
      resolve(socket);
    });
  });
}
