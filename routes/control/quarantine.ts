/** The routes of the quarantine: its entries, and their removal. E2B has no such routes. */
import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import { QuarantineList } from "../../src/e2b/daemon-schemas.ts";
import { ApiError } from "../../src/e2b/schemas.ts";
import type { Quarantine } from "../../src/runtime/machines/quarantine.ts";
import { noContent, sendNothing } from "../http/empty-answer.ts";

export interface QuarantineDeps {
  readonly quarantine: Pick<Quarantine, "list" | "remove">;
}

export async function quarantineRoutes(scope: FastifyInstance, { quarantine }: QuarantineDeps): Promise<void> {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.get("/quarantine", { schema: { response: { 200: QuarantineList, "4xx": ApiError } } }, async (_request, reply) =>
    reply.send({
      entries: quarantine.list().map(({ atMs, ...entry }) => ({ ...entry, at: new Date(atMs).toISOString() })),
    }),
  );

  app.delete(
    "/quarantine/:entryID",
    {
      schema: {
        params: z.object({ entryID: z.string() }),
        response: { 204: noContent.describe("its files are removed, its machine is ended"), "4xx": ApiError },
      },
    },
    async ({ params }, reply) => {
      await quarantine.remove(params.entryID);
      return sendNothing(reply);
    },
  );
}
