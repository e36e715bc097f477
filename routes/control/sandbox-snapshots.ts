/**
 * The routes that make more of a sandbox: forks, snapshots that are templates, follow-ups
 * (docs/compatibility.md#lifecycle).
 */
import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import { parseSandboxId } from "../../src/e2b/ids.ts";
import { decodePageToken, encodePageToken } from "../../src/e2b/page-token.ts";
import { checkNewTimeout } from "../../src/e2b/sandbox-options.ts";
import {
  ApiError,
  ListSnapshotsQuery,
  maxPageSize,
  SandboxFollowup,
  SandboxFollowupRequest,
  SandboxForkRequest,
  SandboxForkResult,
  SandboxParams,
  SandboxSnapshotRequest,
  SnapshotInfo,
} from "../../src/e2b/schemas.ts";
import { parseNewName, parseTemplateReference } from "../../src/e2b/template-reference.ts";
import { checkSandboxTexts } from "../../src/e2b/text-limits.ts";
import { toSandbox, toSnapshotInfo } from "../../src/e2b/views.ts";
import type { Runtime } from "../../src/runtime/runtime.ts";
import { describeError } from "../http/errors.ts";
import { defaultTimeoutSeconds, domainOf, startsSandboxes } from "./sandboxes.ts";

export interface SandboxSnapshotRoutesDeps {
  readonly runtime: Pick<Runtime, "forks" | "snapshots">;
  /** The longest time to live that a client may ask for. */
  readonly maxTimeoutMs: number;
}

const failures = { "4xx": ApiError, "5xx": ApiError };

export async function sandboxSnapshotRoutes(scope: FastifyInstance, deps: SandboxSnapshotRoutesDeps): Promise<void> {
  forkRoute(scope, deps);
  snapshotRoutes(scope, deps);
  followupRoute(scope, deps);
}

function forkRoute(scope: FastifyInstance, { runtime, maxTimeoutMs }: SandboxSnapshotRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.post(
    "/sandboxes/:sandboxID/fork",
    {
      config: startsSandboxes,
      schema: { params: SandboxParams, body: SandboxForkRequest, response: { 201: SandboxForkResult, ...failures } },
    },
    async (request, reply) => {
      const id = parseSandboxId(request.params.sandboxID);
      const options = { count: request.body?.count ?? 1, timeoutMs: timeoutOf(request.body?.timeout, maxTimeoutMs) };
      const outcomes = await runtime.forks.fork(id, options);
      return reply
        .code(201)
        .send(
          outcomes.map((outcome) =>
            "view" in outcome
              ? { sandbox: toSandbox(outcome.view, domainOf(request)) }
              : { error: describeError(outcome.error, request) },
          ),
        );
    },
  );
}

/** Takes and lists snapshots that are templates. */
function snapshotRoutes(scope: FastifyInstance, { runtime }: SandboxSnapshotRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.post(
    "/sandboxes/:sandboxID/snapshots",
    { schema: { params: SandboxParams, body: SandboxSnapshotRequest, response: { 201: SnapshotInfo, ...failures } } },
    async ({ params, body }, reply) => {
      const name = body?.name ? parseNewName(body.name, "snapshot name") : undefined;
      return reply.code(201).send(toSnapshotInfo(await runtime.snapshots.take(parseSandboxId(params.sandboxID), name)));
    },
  );

  app.get(
    "/snapshots",
    { schema: { querystring: ListSnapshotsQuery, response: { 200: z.array(SnapshotInfo), ...failures } } },
    async ({ query }, reply) => {
      const after = query.nextToken ? decodePageToken(query.nextToken, "desc") : undefined;
      const page = runtime.snapshots.list({
        limit: Math.min(query.limit, maxPageSize),
        ...(query.sandboxID === undefined ? {} : { sandboxId: parseSandboxId(query.sandboxID) }),
        ...(query.name === undefined ? {} : parseTemplateReference(query.name)),
        ...(after === undefined ? {} : { after: { createdAtMs: after.startedAtMs, position: after.id } }),
      });
      if (page.next) {
        const { createdAtMs, position } = page.next;
        reply.header("x-next-token", encodePageToken({ startedAtMs: createdAtMs, id: position }, "desc"));
      }
      return reply.send(page.snapshots.map(toSnapshotInfo));
    },
  );
}

function followupRoute(scope: FastifyInstance, { runtime, maxTimeoutMs }: SandboxSnapshotRoutesDeps): void {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.post(
    "/sandboxes/followups",
    {
      config: startsSandboxes,
      schema: { body: SandboxFollowupRequest, response: { 201: SandboxFollowup, ...failures } },
    },
    async (request, reply) => {
      const { body } = request;
      const sandboxId = parseSandboxId(body.sandboxID);
      checkSandboxTexts(body);
      const { view, reason } = await runtime.forks.followUp(sandboxId, {
        timeoutMs: timeoutOf(body.timeout, maxTimeoutMs),
        ...(body.metadata ? { metadata: body.metadata } : {}),
        ...(body.envVars ? { envs: body.envVars } : {}),
      });
      return reply.code(201).send({
        ...toSandbox(view, domainOf(request)),
        continuationOf: sandboxId,
        continuationReason: reason,
      });
    },
  );
}

function timeoutOf(seconds: number | null | undefined, maxTimeoutMs: number): number {
  return checkNewTimeout(seconds ?? defaultTimeoutSeconds.v1, maxTimeoutMs);
}
