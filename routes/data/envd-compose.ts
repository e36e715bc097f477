/** `/files/compose` joins files that are in the sandbox already. */
import type { FastifyInstance, FastifyRequest } from "fastify";
import { z } from "zod";
import { composeFile, describeUpload } from "../../src/envd/files.ts";
import { DomainError } from "../../src/errors.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";

const composition = z.object({
  source_paths: z.array(z.string().min(1)).min(1),
  destination: z.string().min(1),
  username: z.string().optional(),
});

export interface EnvdComposeDeps {
  readonly sessionOf: (request: FastifyRequest) => Session;
}

export async function envdCompose(app: FastifyInstance, { sessionOf }: EnvdComposeDeps): Promise<void> {
  app.post("/files/compose", async (request) => {
    const { data, error } = composition.safeParse(request.body);
    if (!data) throw new DomainError("invalid_argument", `validation error: ${z.prettifyError(error)}`);
    const { source_paths: sources, destination, username } = data;
    return describeUpload(await composeFile(sessionOf(request), sources, destination, username || undefined));
  });
}
