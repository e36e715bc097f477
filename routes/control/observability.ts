/** The routes about the daemon itself: health, metrics for Prometheus, capacity and latency samples. */
import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { Benchmarks, Capacity, Health } from "../../src/e2b/daemon-schemas.ts";
import { toBenchmarks, toCapacity, toHealth } from "../../src/e2b/daemon-views.ts";
import { parseSandboxId } from "../../src/e2b/ids.ts";
import { ApiError, SandboxLatency, SandboxParams } from "../../src/e2b/schemas.ts";
import { toSandboxLatency } from "../../src/e2b/views.ts";
import type { Runtime } from "../../src/runtime/runtime.ts";
import { noContent, sendNothing } from "../http/empty-answer.ts";

export interface ObservabilityDeps {
  readonly runtime: Pick<Runtime, "benchmarks" | "capacity" | "engine" | "observations" | "waitingForDisk">;
  /** All metrics in the text format of Prometheus. */
  readonly metricsText: () => Promise<string>;
}

export async function observabilityRoutes(scope: FastifyInstance, deps: ObservabilityDeps): Promise<void> {
  const app = scope.withTypeProvider<ZodTypeProvider>();

  app.get(
    "/health",
    {
      config: { access: "open" },
      schema: {
        response: {
          200: Health.describe("the daemon serves, and the client accepts JSON by name"),
          204: noContent.describe("the daemon serves"),
        },
      },
    },
    async ({ headers }, reply) => {
      reply.header("cache-control", "no-store");
      if (!headers.accept?.includes("application/json")) return sendNothing(reply);
      return reply.send(toHealth(deps.runtime.engine, { waitingForDisk: deps.runtime.waitingForDisk() }));
    },
  );

  app.get("/metrics", { config: { access: "loopback" }, schema: { hide: true } }, async (_request, reply) =>
    reply.type("text/plain; version=0.0.4; charset=utf-8").send(await deps.metricsText()),
  );

  app.get("/benchmarks", { schema: { response: { 200: Benchmarks, "4xx": ApiError } } }, async (_request, reply) =>
    reply.send(toBenchmarks(deps.runtime.engine, deps.runtime.benchmarks())),
  );

  app.get("/capacity", { schema: { response: { 200: Capacity, "4xx": ApiError } } }, async (_request, reply) =>
    reply.send(toCapacity(deps.runtime.engine, deps.runtime.capacity())),
  );

  app.get(
    "/sandboxes/:sandboxID/latency",
    { schema: { params: SandboxParams, response: { 200: SandboxLatency, "4xx": ApiError } } },
    async ({ params }, reply) =>
      reply.send(toSandboxLatency(deps.runtime.observations.latency(parseSandboxId(params.sandboxID)))),
  );
}
