/** Answers that are their status alone. */
import type { FastifyReply } from "fastify";
import { z } from "zod";

/** Describes one. Where JSON says null, OpenAPI says that there is no content. */
export const noContent = z.null().describe("done");

/** Replies without a body. Sending null instead would be a body of four letters where the status allows one. */
export function sendNothing(reply: FastifyReply, status: 200 | 202 | 204 = 204): FastifyReply {
  return reply.code(status).send();
}
