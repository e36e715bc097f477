/** Connections to the Unix sockets of an engine's processes, which bind them a moment after they start. */
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
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
export async function openSocketWhenBound(
  path: string,
  endMs: number,
  signal?: AbortSignal,
  owner?: number,
): Promise<Socket> {
  for (;;) {
    signal?.throwIfAborted();
    try {
      return await openSocket(path, owner);
    } catch (error) {
      const isPassing = passingCodes.includes((error as NodeJS.ErrnoException).code ?? "");
      if (!isPassing || performance.now() >= endMs) {
        throw new DomainError("machine_failed", `cannot connect to ${path}: ${messageOf(error)}`, {}, { cause: error });
      }
      await delay(retryMs);
    }
  }
}

/**
 * Connects to the socket at `path`.
 * @param owner the user who bound it. An engine that its guest has taken over may have put a link to another machine's socket
 *   in its place: with an owner, the path is opened without following links, and what was opened is connected to
 * @throws the socket's error; DomainError `machine_failed` when `path` is no socket of the owner's
 */
export async function openSocket(path: string, owner?: number): Promise<Socket> {
  if (owner === undefined) return connectTo(path);
  // Node.js does not name O_PATH: a descriptor that stands for the file and opens nothing.
  const found: FileHandle = await open(path, openPath | constants.O_NOFOLLOW);
  try {
    const facts = await found.stat();
    if (facts.uid !== owner || !facts.isSocket()) {
      throw new DomainError("machine_failed", `${path} is not the socket that its machine bound`);
    }
    return await connectTo(`/proc/self/fd/${found.fd}`);
  } finally {
    await found.close();
  }
}

const openPath = 0o10000000;

function connectTo(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.removeListener("error", reject);
      resolve(socket);
    });
  });
}
