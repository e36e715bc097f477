/** The routes that list sandboxes and what they use. Clients poll them, so their answers are made cheaply. */
import type { FastifyInstance, FastifyReply } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import { parseSandboxId } from "../../src/e2b/ids.ts";
import { parseMetadataFilter } from "../../src/e2b/metadata-filter.ts";
import { decodePageToken, encodePageToken } from "../../src/e2b/page-token.ts";
import {
  ApiError,
  ListedSandbox,
  ListSandboxesQueryV1,
  ListSandboxesQueryV2,
  maxPageSize,
  SandboxesMetricsQuery,
  SandboxesWithMetrics,
  SandboxMetric,
  SandboxMetricsQuery,
  SandboxParams,
} from "../../src/e2b/schemas.ts";
import { parseTemplateReference } from "../../src/e2b/template-reference.ts";
import { ceilToMs } from "../../src/e2b/time.ts";
import { listingWriter, toSandboxMetric } from "../../src/e2b/views.ts";
import { DomainError, isDomainError } from "../../src/errors.ts";
import type { ListSandboxesPage, SandboxMetricSample } from "../../src/runtime/contract.ts";
import type { Runtime } from "../../src/runtime/runtime.ts";

type ListQuery = z.infer<typeof ListSandboxesQueryV2>;

export interface SandboxListingDeps {
  readonly runtime: Pick<Runtime, "registry" | "observations" | "findTemplate">;
}

export async function sandboxListings(scope: FastifyInstance, { runtime }: SandboxListingDeps): Promise<void> {
  const app = scope.withTypeProvider<ZodTypeProvider>();
  const write = listingWriter();
  const writeV1 = listingWriter();
  const listed = { 200: z.array(ListedSandbox), "4xx": ApiError };

  app.get("/v2/sandboxes", { schema: { querystring: ListSandboxesQueryV2, response: listed } }, (request, reply) => {
    const { query } = request;
    const states = new Set(query.state ?? (["running", "paused"] as const));
    const page = findPage(runtime, query, states);
    if (states.has("running")) reply.header("x-total-running", String(page.totalRunning));
    if (page.next) reply.header("x-next-token", encodePageToken(page.next, query.order));
    sendJson(reply, write(page.sandboxes));
  });

  app.get("/sandboxes", { schema: { querystring: ListSandboxesQueryV1, response: listed } }, (request, reply) => {
    const page = runtime.registry.list({
      states: new Set(["running"] as const),
      metadata: parseMetadataFilter(request.query.metadata ?? ""),
      order: "desc",
      limit: Number.MAX_SAFE_INTEGER,
    });
    sendJson(reply, writeV1(page.sandboxes));
  });

  app.get(
    "/sandboxes/metrics",
    { schema: { querystring: SandboxesMetricsQuery, response: { 200: SandboxesWithMetrics, "4xx": ApiError } } },
    async ({ query }, reply) => {
      const rows = query.sandbox_ids.flatMap((text) => {
        const id = parseSandboxId(text);
        const newest = samplesOf(runtime, id).at(-1);
        return newest ? [[id, toSandboxMetric(newest)] as const] : [];
      });
      return reply.send({ sandboxes: Object.fromEntries(rows) });
    },
  );

  app.get(
    "/sandboxes/:sandboxID/metrics",
    {
      schema: {
        params: SandboxParams,
        querystring: SandboxMetricsQuery,
        response: { 200: z.array(SandboxMetric), "4xx": ApiError },
      },
    },
    async ({ params, query }, reply) => {
      const range = {
        ...(query.start === undefined ? {} : { fromMs: query.start * 1000 }),
        // A client means all of the last second.
        ...(query.end === undefined ? {} : { toMs: query.end * 1000 + 999 }),
      };
      return reply.send(runtime.observations.metrics(parseSandboxId(params.sandboxID), range).map(toSandboxMetric));
    },
  );
}

function findPage(
  runtime: SandboxListingDeps["runtime"],
  query: ListQuery,
  states: ReadonlySet<"running" | "paused">,
): ListSandboxesPage {
  const after = query.nextToken ? decodePageToken(query.nextToken, query.order) : undefined;
  const metadata = parseMetadataFilter(query.metadata ?? "");
  const template = query.template === undefined ? undefined : findTemplate(runtime, query.template);
  if (template === null) return { sandboxes: [], next: undefined, totalRunning: 0 };
  return runtime.registry.list({
    states,
    metadata,
    order: query.order,
    limit: Math.min(query.limit, maxPageSize),
    ...(template === undefined ? {} : { templateId: template.id }),
    ...(query.startedAfter === undefined ? {} : { startedAfterMs: ceilToMs(query.startedAfter) }),
    ...(after === undefined ? {} : { after }),
  });
}

/** Null when there is no such template, so that no sandbox matches. */
function findTemplate(runtime: SandboxListingDeps["runtime"], text: string): { readonly id: string } | null {
  const { name, tag } = parseTemplateReference(text);
  if (tag !== undefined) throw new DomainError("invalid_argument", "The template filter takes no tag");
  return runtime.findTemplate(name) ?? null;
}

/** Sends a listing, which is JSON already. */
function sendJson(reply: FastifyReply, json: Buffer): void {
  reply.type("application/json; charset=utf-8").send(json);
}

/** The samples of a sandbox. A sandbox that does not exist has none, so that the others still get theirs. */
function samplesOf(runtime: SandboxListingDeps["runtime"], id: string): SandboxMetricSample[] {
  try {
    return runtime.observations.metrics(id, {});
  } catch (error) {
    if (isDomainError(error, "not_found")) return [];
    throw error;
  }
}
