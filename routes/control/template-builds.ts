/** The routes of a template's build: request it, start it, follow it (docs/compatibility.md#templates). */
import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { ApiError } from "../../src/e2b/schemas.ts";
import { parseBuildOrigin, parseNewName, parseTag } from "../../src/e2b/template-reference.ts";
import {
  BuildLogsQuery,
  BuildParams,
  BuildStatusQuery,
  FilesParams,
  PrunedBuildCache,
  TemplateBuildFileUpload,
  TemplateBuildInfo,
  TemplateBuildLogsResponse,
  TemplateBuildRequestV3,
  TemplateBuildStartV2,
  TemplateRequestResponseV3,
} from "../../src/e2b/template-schemas.ts";
import { atLeast, toBuildInfo, toLogEntry } from "../../src/e2b/template-views.ts";
import { DomainError } from "../../src/errors.ts";
import type { Templates } from "../../src/template/templates.ts";
import { noContent, sendNothing } from "../http/empty-answer.ts";

const failures = { "4xx": ApiError, "5xx": ApiError };

export interface TemplateBuildRoutesDeps {
  readonly templates: Templates;
}

export async function templateBuildRoutes(scope: FastifyInstance, deps: TemplateBuildRoutesDeps): Promise<void> {
  startRoutes(scope, deps);
  progressRoutes(scope, deps);
  cancelRoutes(scope, deps);
  cacheRoutes(scope, deps);
}

/** The cache of build steps. E2B has no such route. */
function cacheRoutes(scope: FastifyInstance, { templates }: TemplateBuildRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();
  app.delete("/build-cache", { schema: { response: { 200: PrunedBuildCache, ...failures } } }, async (_, reply) =>
    reply.send(await templates.pruneBuildCache()),
  );
}

/** Requests a build, offers uploads for it, and starts it. */
function startRoutes(scope: FastifyInstance, { templates }: TemplateBuildRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.post(
    "/v3/templates",
    { schema: { body: TemplateBuildRequestV3, response: { 202: TemplateRequestResponseV3, ...failures } } },
    async ({ body }, reply) => {
      const reference = parseName(body.name || body.alias || "");
      const tags = [...(reference.tag === undefined ? [] : [reference.tag]), ...(body.tags ?? []).map(parseTag)];
      const asked = templates.requestBuild({
        name: reference.name,
        tags,
        vcpuCount: body.cpuCount ?? null,
        memoryMiB: body.memoryMB ?? null,
        minFreeDiskMiB: body.minFreeDiskMb ?? null,
      });
      const { template } = asked;
      return reply.code(202).send({
        templateID: template.id,
        buildID: asked.buildId,
        public: template.public,
        names: [...template.aliases],
        tags: [...asked.tags],
        aliases: [...template.aliases],
      });
    },
  );

  app.get(
    "/templates/:templateID/files/:hash",
    { schema: { params: FilesParams, response: { 201: TemplateBuildFileUpload, ...failures } } },
    async (request, reply) => {
      const { templateID, hash } = request.params;
      const { present, token } = await templates.offerUpload(templateID, hash);
      // The client reached the daemon by this name, so the link uses it too.
      const url = `${request.protocol}://${request.host}/templates/${templateID}/files/${hash}?token=${token}`;
      return reply.code(201).send({ present, url });
    },
  );

  app.post(
    "/v2/templates/:templateID/builds/:buildID",
    { schema: { params: BuildParams, body: TemplateBuildStartV2, response: { 202: noContent, ...failures } } },
    async ({ params, body }, reply) => {
      await templates.startBuild(params.templateID, params.buildID, {
        ...parseBuildOrigin(body),
        force: body.force ?? false,
        steps: (body.steps ?? []).map(({ type, args, filesHash, force }) => ({
          type,
          args: args ?? [],
          filesHash,
          force,
        })),
        startCommand: body.startCmd || undefined,
        readyCommand: body.readyCmd || undefined,
      });
      return sendNothing(reply, 202);
    },
  );
}

/** Ends a build early. E2B has no such route: there, as here, a template that is deleted takes its builds with it. */
function cancelRoutes(scope: FastifyInstance, { templates }: TemplateBuildRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();
  app.delete(
    "/templates/:templateID/builds/:buildID",
    { schema: { params: BuildParams, response: { 204: noContent, ...failures } } },
    async ({ params }, reply) => {
      await templates.cancelBuild(params.templateID, params.buildID);
      return sendNothing(reply);
    },
  );
}

/** Reports the status and the log of a build. */
function progressRoutes(scope: FastifyInstance, { templates }: TemplateBuildRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.get(
    "/templates/:templateID/builds/:buildID/status",
    {
      schema: { params: BuildParams, querystring: BuildStatusQuery, response: { 200: TemplateBuildInfo, ...failures } },
    },
    async ({ params, query }, reply) => {
      const { logsOffset, limit, level } = query;
      const build = templates.getBuild(params.templateID, params.buildID);
      const entries = templates.buildLog(build.id).filter(atLeast(level));
      return reply.send(toBuildInfo(build, entries.slice(logsOffset, logsOffset + limit)));
    },
  );

  app.get(
    "/templates/:templateID/builds/:buildID/logs",
    {
      schema: {
        params: BuildParams,
        querystring: BuildLogsQuery,
        response: { 200: TemplateBuildLogsResponse, ...failures },
      },
    },
    async ({ params, query: { cursor, direction, level, limit } }, reply) => {
      const build = templates.getBuild(params.templateID, params.buildID);
      const entries = templates.buildLog(build.id).filter(atLeast(level));
      const isAsked = (atMs: number) =>
        cursor === undefined || (direction === "forward" ? atMs >= cursor : atMs <= cursor);
      const asked = entries.filter(({ atMs }) => isAsked(atMs));
      const ordered = direction === "forward" ? asked : asked.toReversed();
      return reply.send({ logs: ordered.slice(0, limit).map(toLogEntry) });
    },
  );
}

/** @throws DomainError `invalid_argument` in E2B's words */
function parseName(text: string): { name: string; tag: string | undefined } {
  if (text.trim() === "") throw new DomainError("invalid_argument", "Name is required");
  return parseNewName(text, "name");
}
