/** The routes of sandbox logs: what a sandbox and its commands did (docs/compatibility.md#lifecycle). */
import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { parseSandboxId } from "../../src/e2b/ids.ts";
import {
  SandboxLogs,
  SandboxLogsQueryV1,
  SandboxLogsQueryV2,
  SandboxLogsV2Response,
  toSandboxLogRow,
  toSandboxLogs,
} from "../../src/e2b/log-schemas.ts";
import { ApiError, SandboxParams } from "../../src/e2b/schemas.ts";
import type { Runtime } from "../../src/runtime/runtime.ts";

export async function sandboxLogRoutes(
  scope: FastifyInstance,
  { runtime }: { readonly runtime: Pick<Runtime, "observations"> },
): Promise<void> {
  const app = scope.withTypeProvider<ZodTypeProvider>();
  const params = SandboxParams;
  const failures = { "4xx": ApiError, "5xx": ApiError };

  app.get(
    "/sandboxes/:sandboxID/logs",
    { schema: { params, querystring: SandboxLogsQueryV1, response: { 200: SandboxLogs, ...failures } } },
    async ({ params, query: { start, limit } }, reply) => {
      const id = parseSandboxId(params.sandboxID);
      const entries = runtime.observations.logs(id, { fromMs: start, search: "", order: "asc", limit });
      return reply.send(toSandboxLogs(entries));
    },
  );

  app.get(
    "/v2/sandboxes/:sandboxID/logs",
    { schema: { params, querystring: SandboxLogsQueryV2, response: { 200: SandboxLogsV2Response, ...failures } } },
    async ({ params, query: { cursor, direction, level, search, limit } }, reply) => {
      const id = parseSandboxId(params.sandboxID);
      const page =
        direction === "forward"
          ? ({ fromMs: cursor, order: "asc" } as const)
          : ({ toMs: cursor, order: "desc" } as const);
      const entries = runtime.observations.logs(id, { ...page, level, search, limit });
      return reply.send({ logs: entries.map(toSandboxLogRow) });
    },
  );
}
