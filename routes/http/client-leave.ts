/** The client's leave: a client that closes its connection before the answer gives up what it asked for. */
import type { FastifyReply, FastifyRequest } from "fastify";
import { DomainError } from "../../src/errors.ts";

/**
 * Runs `work` with a signal that is aborted, with `cancelled`, when the client leaves before its answer. So no work
 * waits in a queue for a client that has gone.
 */
export async function whileClientStays<T>(reply: FastifyReply, work: (gone: AbortSignal) => Promise<T>): Promise<T> {
  const gone = new AbortController();
  const onClose = () => {
    if (!reply.raw.writableFinished) gone.abort(new DomainError("cancelled", "the client has left"));
  };
  reply.raw.once("close", onClose);
  try {
    return await work(gone.signal);
  } finally {
    reply.raw.off("close", onClose);
  }
}

/** Whether the client of a request is gone: its connection has ended, or its body broke off in the middle. */
export function hasLeft({ raw }: FastifyRequest): boolean {
  return raw.socket.destroyed || (raw.destroyed && !raw.complete);
}
