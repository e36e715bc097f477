/** Empty answers: a status without a body. */
import type { FastifyReply } from "fastify";
import { z } from "zod";

/** The schema of an empty answer. OpenAPI describes null as no content. */
export const noContent = z.null().describe("done");

/** Replies without a body. A `send(null)` would have the body `null` where the status allows one. */
export function sendNothing(reply: FastifyReply, status: 200 | 202 | 204 = 204): FastifyReply {
  return reply.code(status).send();
}
