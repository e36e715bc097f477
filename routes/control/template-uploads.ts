/**
 * The upload route takes the archive of a COPY step. Clients send no key with it, because the link has a token. The
 * body goes to the disk as it comes, and is kept only when it has exactly the announced length.
 */
import type { IncomingMessage } from "node:http";
import { Readable } from "node:stream";
import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import { FilesParams } from "../../src/e2b/template-schemas.ts";
import type { Templates } from "../../src/template/templates.ts";
import { sendError } from "../http/errors.ts";

/** A client that sends nothing for this long counts as gone. */
const idleTimeoutMs = 60_000;

export async function templateUploadRoutes(
  scope: FastifyInstance,
  { templates }: { readonly templates: Templates },
): Promise<void> {
  scope.removeAllContentTypeParsers();
  scope.addContentTypeParser("*", (_request, _payload, done) => done(null));
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.put(
    "/templates/:templateID/files/:hash",
    {
      schema: { hide: true, params: FilesParams, querystring: z.object({ token: z.string() }) },
      config: { access: "open" },
    },
    async (request, reply) => {
      const { params, query, raw } = request;
      const length = raw.headers["content-length"];
      if (length === undefined) return sendError(reply, 411, "an upload needs a Content-Length");
      try {
        await templates.receiveUpload(params.hash, query.token, Readable.from(bodyOf(raw)), Number(length));
        return await reply.code(201).send();
      } finally {
        // The rest of a refused upload is read and dropped, so that the client reads the answer.
        raw.resume();
      }
    },
  );
}

/** The bytes of a body. Destroys the request of a client that sends nothing for a minute. */
async function* bodyOf(raw: IncomingMessage): AsyncGenerator<Uint8Array> {
  const idle = setTimeout(
    () => raw.destroy(new Error("the client sent nothing of the upload for a minute")),
    idleTimeoutMs,
  );
  try {
    for await (const chunk of raw.iterator({ destroyOnReturn: false })) {
      idle.refresh();
      yield chunk;
    }
  } finally {
    clearTimeout(idle);
  }
}
