/** envd's small HTTP routes: health, metrics, the sandbox's environment. */
import type { FastifyInstance, FastifyRequest } from "fastify";
import type { Clock } from "../../src/clock.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";
import type { GuestMetrics } from "../../src/types.ts";

const bytesPerMiB = 1024 * 1024;
/** Paths of E2B's own orchestrator. E2B's public proxy refuses them in the words below. */
const reservedPaths = ["/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade"];

export interface EnvdHttpDeps {
  readonly clock: Clock;
  readonly sessionOf: (request: FastifyRequest) => Session;
}

export async function envdHttp(app: FastifyInstance, { clock, sessionOf }: EnvdHttpDeps): Promise<void> {
  /** The previous sample of each session, because processor use is the difference between two samples. */
  const previous = new WeakMap<Session, GuestMetrics>();
  // No route here reads a body, so a body of any type is accepted.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (_request, _payload, done) => done(null));

  app.get("/health", { config: { access: "open" } }, async (_request, reply) =>
    reply.code(204).header("cache-control", "no-store").send(),
  );

  app.get("/metrics", async (request) => {
    const session = sessionOf(request);
    const metrics = await session.agent.metrics();
    const before = previous.get(session);
    previous.set(session, metrics);
    return {
      ts: Math.floor(clock.nowMs() / 1000),
      cpu_count: metrics.cpuCount,
      cpu_used_pct: cpuUsedPercent(metrics, before),
      mem_total_mib: Math.floor(metrics.memTotalBytes / bytesPerMiB),
      mem_used_mib: Math.floor(metrics.memUsedBytes / bytesPerMiB),
      mem_total: metrics.memTotalBytes,
      mem_used: metrics.memUsedBytes,
      mem_cache: metrics.memCacheBytes,
      disk_used: metrics.diskUsedBytes,
      disk_total: metrics.diskTotalBytes,
    };
  });

  app.get("/envs", async (request) => sessionOf(request).envs);

  for (const path of reservedPaths) {
    const message = "This endpoint is reserved for the E2B control plane.";
    app.all(path, { config: { access: "open" } }, async (_request, reply) =>
      reply.code(404).send({ message, path, code: 404 }),
    );
  }

  app.all("*", async (request, reply) =>
    reply.code(404).send({ code: 404, message: `no such method or path: ${request.method} ${request.url}` }),
  );
}

/** The use of all processors together since `before`, or since boot without it, to two decimals. */
function cpuUsedPercent(now: GuestMetrics, before: GuestMetrics | undefined): number {
  const totalTicks = now.cpuTotalTicks - (before?.cpuTotalTicks ?? 0);
  const busyTicks = now.cpuBusyTicks - (before?.cpuBusyTicks ?? 0);
  if (totalTicks <= 0) return 0;
  return Math.round((Math.max(0, busyTicks) / totalTicks) * 10_000) / 100;
}
