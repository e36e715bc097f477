/** The routes of the one team that a machine has: its name, its use, its API keys. */
import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import { ApiError } from "../../src/e2b/schemas.ts";
import {
  ApiKeyParams,
  CreatedTeamAPIKey,
  MaxTeamMetric,
  MaxTeamMetricQuery,
  NewTeamAPIKey,
  Team,
  TeamAPIKey,
  TeamMetric,
  TeamMetricsQuery,
  TeamParams,
  toMaxTeamMetric,
  toTeamAPIKey,
  toTeamMetric,
  UpdateTeamAPIKey,
} from "../../src/e2b/team-schemas.ts";
import { DomainError } from "../../src/errors.ts";
import type { Runtime } from "../../src/runtime/runtime.ts";
import type { ApiKeys } from "../../src/team/keyring.ts";
import { noContent, sendNothing } from "../http/empty-answer.ts";
import { sendError } from "../http/errors.ts";
import { keyOf } from "./authentication.ts";

export interface TeamRoutesDeps {
  readonly runtime: Pick<Runtime, "team">;
  /** The id is a UUID. */
  readonly team: { readonly id: string; readonly apiKeys: ApiKeys };
}

const failures = { "4xx": ApiError, "5xx": ApiError };

export async function teamRoutes(scope: FastifyInstance, deps: TeamRoutesDeps): Promise<void> {
  const app = scope.withTypeProvider<ZodTypeProvider>();
  const { runtime, team } = deps;
  const samplesOf = (teamID: string, { start, end }: z.infer<typeof TeamMetricsQuery>) => {
    if (teamID !== team.id) throw new DomainError("permission_denied", "You don't have access to this team");
    // A client means all of the last second.
    return runtime.team.samples({
      ...(start !== undefined && { fromMs: start * 1000 }),
      ...(end !== undefined && { toMs: end * 1000 + 999 }),
    });
  };

  app.get("/teams", { schema: { response: { 200: z.array(Team), ...failures } } }, async (request, reply) =>
    // The key is the one that the client came with, because the daemon keeps only hashes of the others.
    reply.send([{ teamID: team.id, name: "local", apiKey: keyOf(request) ?? "", isDefault: true }]),
  );

  app.get(
    "/teams/:teamID/metrics",
    {
      schema: {
        params: TeamParams,
        querystring: TeamMetricsQuery,
        response: { 200: z.array(TeamMetric), ...failures },
      },
    },
    async ({ params, query }, reply) => reply.send(samplesOf(params.teamID, query).map(toTeamMetric)),
  );

  app.get(
    "/teams/:teamID/metrics/max",
    {
      schema: { params: TeamParams, querystring: MaxTeamMetricQuery, response: { 200: MaxTeamMetric, ...failures } },
    },
    async ({ params, query }, reply) =>
      reply.send(toMaxTeamMetric(samplesOf(params.teamID, query), query.metric, Date.now())),
  );

  app.post("/access-tokens", { schema: { response: failures } }, async (_request, reply) =>
    sendError(reply, 410, "Access tokens are not issued any more: make an API key"),
  );

  app.delete(
    "/access-tokens/:accessTokenID",
    { schema: { params: z.object({ accessTokenID: z.string() }), response: failures } },
    async () => {
      throw new DomainError("not_found", "There are no access tokens: use API keys");
    },
  );
  await apiKeyRoutes(scope, deps);
}

async function apiKeyRoutes(scope: FastifyInstance, { team: { apiKeys } }: TeamRoutesDeps): Promise<void> {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.get("/api-keys", { schema: { response: { 200: z.array(TeamAPIKey), ...failures } } }, async (_request, reply) =>
    reply.send(apiKeys.list().map(toTeamAPIKey)),
  );

  app.post(
    "/api-keys",
    { schema: { body: NewTeamAPIKey, response: { 201: CreatedTeamAPIKey, ...failures } } },
    async ({ body }, reply) => {
      const { view, key } = apiKeys.create(body.name);
      return reply
        .code(201)
        .header("cache-control", "no-store")
        .send({ ...toTeamAPIKey(view), key });
    },
  );

  app.patch(
    "/api-keys/:apiKeyID",
    { schema: { params: ApiKeyParams, body: UpdateTeamAPIKey, response: { 200: noContent, ...failures } } },
    async ({ params, body }, reply) => {
      apiKeys.rename(params.apiKeyID, body.name);
      return sendNothing(reply, 200);
    },
  );

  app.delete(
    "/api-keys/:apiKeyID",
    { schema: { params: ApiKeyParams, response: { 204: noContent, ...failures } } },
    async ({ params }, reply) => {
      apiKeys.remove(params.apiKeyID);
      return sendNothing(reply);
    },
  );
}
