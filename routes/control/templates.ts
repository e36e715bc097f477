/** The routes that list, change and remove templates and their tags (docs/compatibility.md#templates). */
import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import { decodePageToken, encodePageToken } from "../../src/e2b/page-token.ts";
import { ApiError, maxPageSize } from "../../src/e2b/schemas.ts";
import { parseTag, parseTemplateReference } from "../../src/e2b/template-reference.ts";
import {
  AliasParams,
  AssignedTemplateTags,
  AssignTemplateTagsRequest,
  DeleteTemplateTagsRequest,
  TemplateAliasResponse,
  TemplateListQuery,
  TemplateParams,
  TemplateSchema,
  TemplateTagSchema,
  TemplateUpdateRequest,
  TemplateUpdateResponse,
  TemplateWithBuilds,
} from "../../src/e2b/template-schemas.ts";
import { toTemplate, toTemplateWithBuilds, toTime } from "../../src/e2b/template-views.ts";
import { DomainError } from "../../src/errors.ts";
import type { Runtime } from "../../src/runtime/runtime.ts";
import type { Templates, TemplateView } from "../../src/template/templates.ts";
import { noContent, sendNothing } from "../http/empty-answer.ts";

const failures = { "4xx": ApiError, "5xx": ApiError };

const params = TemplateParams;

export interface TemplateRoutesDeps {
  readonly templates: Templates;
  readonly runtime: Pick<Runtime, "snapshots">;
}

export async function templateRoutes(scope: FastifyInstance, deps: TemplateRoutesDeps): Promise<void> {
  listingRoutes(scope, deps);
  changeRoutes(scope, deps);
  nameRoutes(scope, deps);
}

/** Lists and describes templates. */
function listingRoutes(scope: FastifyInstance, { templates }: TemplateRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.get("/templates", { schema: { response: { 200: z.array(TemplateSchema), ...failures } } }, async (_, reply) =>
    reply.send(templates.list().map(toTemplate)),
  );

  app.get(
    "/v2/templates",
    { schema: { querystring: TemplateListQuery, response: { 200: z.array(TemplateSchema), ...failures } } },
    async ({ query }, reply) => {
      const rows = templates.list().map((view) => ({ ...view, ...view.template }));
      const { page, nextToken } = pageOf(rows, query);
      if (nextToken) reply.header("x-next-token", nextToken);
      return reply.send(page.map(toTemplate));
    },
  );

  app.get(
    "/templates/:templateID",
    { schema: { params, querystring: TemplateListQuery, response: { 200: TemplateWithBuilds, ...failures } } },
    async ({ params: { templateID }, query }, reply) => {
      const view = templates.get(nameOf(templateID));
      const { page, nextToken } = pageOf(view.builds, query);
      if (nextToken) reply.header("x-next-token", nextToken);
      return reply.send(toTemplateWithBuilds(view, page));
    },
  );
}

/** Removes and publishes templates. */
function changeRoutes(scope: FastifyInstance, { templates, runtime }: TemplateRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.delete(
    "/templates/:templateID",
    { schema: { params, response: { 204: noContent, ...failures } } },
    async ({ params: { templateID } }, reply) => {
      const { name, tag } = parseTemplateReference(templateID);
      if (runtime.snapshots.has(name)) await runtime.snapshots.remove(name, tag);
      else {
        if (tag !== undefined) refuseTagOf(templates.get(name), tag);
        await templates.remove(name);
      }
      return sendNothing(reply);
    },
  );

  const update = { params, body: TemplateUpdateRequest };
  app.patch(
    "/v2/templates/:templateID",
    { schema: { ...update, response: { 200: TemplateUpdateResponse, ...failures } } },
    async ({ params: { templateID }, body }, reply) => {
      const { aliases } = setPublic(templates, nameOf(templateID), body.public);
      return reply.send({ names: [...aliases] });
    },
  );

  app.patch(
    "/templates/:templateID",
    { schema: { ...update, response: { 200: noContent, ...failures } } },
    async ({ params: { templateID }, body }, reply) => {
      setPublic(templates, nameOf(templateID), body.public);
      return sendNothing(reply, 200);
    },
  );
}

/** Resolves aliases, and lists and moves tags. */
function nameRoutes(scope: FastifyInstance, { templates }: TemplateRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.get(
    "/templates/aliases/:alias",
    { schema: { params: AliasParams, response: { 200: TemplateAliasResponse, ...failures } } },
    async ({ params: { alias } }, reply) => {
      const { template } = templates.get(nameOf(alias));
      return reply.send({ templateID: template.id, public: template.public });
    },
  );

  app.get(
    "/templates/:templateID/tags",
    { schema: { params, response: { 200: z.array(TemplateTagSchema), ...failures } } },
    async ({ params: { templateID } }, reply) => {
      const rows = templates.tags(nameOf(templateID));
      return reply.send(
        rows.map(({ tag, buildId, assignedAtMs }) => ({ tag, buildID: buildId, createdAt: toTime(assignedAtMs) })),
      );
    },
  );

  app.post(
    "/templates/tags",
    { schema: { body: AssignTemplateTagsRequest, response: { 201: AssignedTemplateTags, ...failures } } },
    async ({ body }, reply) => {
      const { name, tag } = parseTemplateReference(body.target);
      const tags = body.tags.map(parseTag);
      return reply.code(201).send({ tags, buildID: templates.assignTags(name, tag, tags) });
    },
  );

  app.delete(
    "/templates/tags",
    { schema: { body: DeleteTemplateTagsRequest, response: { 204: noContent, ...failures } } },
    async ({ body }, reply) => {
      await templates.removeTags(nameOf(body.name), body.tags.map(parseTag));
      return sendNothing(reply);
    },
  );
}

/** The template that a text names. A tag in it is ignored. */
function nameOf(text: string): string {
  return parseTemplateReference(text).name;
}

/** Refuses to remove a whole template where the client named one of its builds. */
function refuseTagOf({ template: { id, aliases } }: TemplateView, tag: string): never {
  const name = aliases[0] ?? id;
  const message = `'${name}:${tag}' is no snapshot of a sandbox: delete '${name}', or its tag through /templates/tags`;
  throw new DomainError("invalid_argument", message);
}

function setPublic(templates: Templates, name: string, isPublic: boolean | null | undefined) {
  return isPublic == null ? templates.get(name).template : templates.setPublic(name, isPublic);
}

interface Row {
  readonly id: string;
  readonly createdAtMs: number;
}

/** One page, newest first, and the token of the next page when there is one. */
function pageOf<T extends Row>(
  rows: readonly T[],
  { limit, nextToken }: z.infer<typeof TemplateListQuery>,
): { page: T[]; nextToken: string | undefined } {
  const after = nextToken ? decodePageToken(nextToken, "desc") : undefined;
  const rest = rows
    .filter((row) => !after || comparePosition(row, { ...after, createdAtMs: after.startedAtMs }) > 0)
    .sort(comparePosition);
  const page = rest.slice(0, Math.min(limit, maxPageSize));
  const last = page.at(-1);
  const more = last && rest.length > page.length;
  const next = more ? encodePageToken({ startedAtMs: last.createdAtMs, id: last.id }, "desc") : undefined;
  return { page, nextToken: next };
}

/** Orders rows newest first. Ids decide between equal times. */
function comparePosition(a: Row, b: Row): number {
  return b.createdAtMs - a.createdAtMs || (a.id < b.id ? 1 : a.id > b.id ? -1 : 0);
}
