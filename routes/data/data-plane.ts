/**
 * The data plane: every request that goes into a sandbox. This file finds the session of a request, resumes its sandbox
 * where that is allowed, checks that the caller may use it, and drops the connection when the session ends.
 * `routes/data` calls the runtime, `src/envd` and `routes/http`, and never `routes/control`.
 */
import { type IncomingMessage, METHODS } from "node:http";
import type { Duplex } from "node:stream";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Clock } from "../../src/clock.ts";
import { isDomainError } from "../../src/errors.ts";
import type { Logger } from "../../src/log.ts";
import type { SessionDirectory } from "../../src/runtime/sandboxes/registry.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";
import { resetConnection } from "../http/connection-reset.ts";
import { noteKey } from "../http/connections.ts";
import { sendError, statusOf } from "../http/errors.ts";
import { type DataPlaneTarget, envdPort, unauthorizedMessage } from "../http/plane.ts";
import { planeOfRequest, routesBelongTo, targetOf } from "../http/plane-constraint.ts";
import { whenSessionEnds } from "../http/session-end.ts";
import { checkTrafficToken, findSession, hasAccessToken } from "./access.ts";
import { type AutoResumeDeps, resumeForRequest } from "./auto-resume.ts";
import { envdCompose } from "./envd-compose.ts";
import { envdFiles } from "./envd-files.ts";
import { envdHttp } from "./envd-http.ts";
import { envdRpc } from "./envd-rpc.ts";
import { dropIdleBody } from "./idle-body.ts";
import { sandboxNotFound } from "./port-pages.ts";
import { countRequest, tooManyRequests } from "./request-limit.ts";
import { proxyRequest, proxyUpgrade, refuseUnknownUpgrade, refuseUpgrade, sendRefusal } from "./sandbox-proxy.ts";

export interface DataPlaneDeps {
  readonly runtime: AutoResumeDeps["runtime"] & { readonly registry: SessionDirectory };
  readonly clock: Clock;
  readonly log: Logger;
  /** The longest pause in a body that a client announced. Default a minute. */
  readonly bodyIdleMs?: number;
}

const corsHeaders = {
  "access-control-allow-origin": "*",
  "access-control-expose-headers":
    "Connect-Content-Encoding, Connect-Accept-Encoding, Grpc-Status, Grpc-Message, Location, Cache-Control, X-Content-Type-Options",
} as const;
/** This route's body is the input of a process as a person types it, so it may pause for ever. */
const endlessBodyRoute = "/process.Process/StreamInput";
const defaultBodyIdleMs = 60_000;

const sessions = new WeakMap<FastifyRequest, Session>();
type NamedTarget = DataPlaneTarget & { readonly by: "id" };

/** Registers the data plane's routes and upgrades. The app's router must have the constraint `plane`. */
export async function registerDataPlane(app: FastifyInstance, deps: DataPlaneDeps): Promise<void> {
  // A service in a sandbox may speak WebDAV, so every method that Node knows is passed on.
  for (const method of METHODS) {
    if (!app.supportedMethods.includes(method)) app.addHttpMethod(method, { hasBody: true });
  }
  await app.register(async (plane) => {
    routesBelongTo(plane, "data");
    plane.addHook("onRequest", (request, reply) => letIn(request, reply, deps));
    const envdDeps = { ...deps, sessionOf };
    await plane.register(envdHttp, envdDeps);
    await plane.register(envdFiles, envdDeps);
    await plane.register(envdCompose, envdDeps);
    await plane.register(envdRpc, envdDeps);
  });
  // A head that is cut off may lose what frames its body. The size of the head is the limit.
  app.server.maxHeadersCount = 0;
  // Node hands over the bare connection of an upgrade and forgets it, so the router and its close never see it.
  const upgraded = new Set<Duplex>();
  app.server.on("upgrade", (request, socket, head) => {
    upgraded.add(socket);
    socket.once("close", () => upgraded.delete(socket));
    upgrade(request, socket, head, app.server.listenerCount("upgrade"), deps);
  });
  app.addHook("preClose", async () => {
    for (const socket of upgraded) socket.destroy();
  });
}

/**
 * Finds the session of a request and lets it through, or answers a request that needs no session or may not have one.
 */
async function letIn(request: FastifyRequest, reply: FastifyReply, deps: DataPlaneDeps) {
  const target = targetOf(request);
  if (target.by === "preflight") return answerPreflight(request, reply);
  if (target.by === "id" && target.port !== envdPort) return passToPort(target, request, reply, deps);
  const session =
    findSession(target, request.method, deps.runtime.registry) ?? (await resumeForRequest(target, request.raw, deps));
  if (session && !enter(session, reply)) {
    return reply.header("retry-after", "1").code(429).send(tooManyRequests(session.sandboxId));
  }
  reply.headers(corsHeaders);
  if (request.method === "OPTIONS") return answerPreflight(request, reply);
  if (!session) {
    if (target.by === "signature") return sendError(reply, 401, "invalid signature");
    return sendRefusal(reply, sandboxNotFound(target.by === "id" ? target.sandboxId : ""));
  }
  if (request.routeOptions.config.access !== "open" && !hasAccessToken(request.headers, session.accessToken)) {
    return sendError(reply, 401, unauthorizedMessage);
  }
  // A route that checks access itself notes the key itself.
  if (request.routeOptions.config.access !== "open") noteKey(request.raw.socket);
  sessions.set(request, session);
  if (request.routeOptions.url !== endlessBodyRoute) dropIdleBody(request.raw, deps.bodyIdleMs ?? defaultBodyIdleMs);
  return undefined;
}

/** Passes a request on to a port at which a service in the sandbox listens. */
async function passToPort(
  target: NamedTarget,
  request: FastifyRequest,
  reply: FastifyReply,
  deps: DataPlaneDeps,
): Promise<FastifyReply> {
  const { sandboxId, port } = target;
  try {
    const session = await sessionForPort(target, request.raw, deps);
    if (!session) return sendRefusal(reply, sandboxNotFound(sandboxId));
    if (!enter(session, reply)) return sendRefusal(reply, tooManyRequests(sandboxId));
    return await proxyRequest(request, reply, session, port);
  } catch (error) {
    if (!isDomainError(error)) throw error;
    return sendRefusal(reply, { sandboxId, message: error.message, code: statusOf(error) });
  }
}

/** The session whose ports the request may use, resumed where that is allowed; undefined when there is none. */
async function sessionForPort(
  target: NamedTarget,
  request: IncomingMessage,
  deps: DataPlaneDeps,
): Promise<Session | undefined> {
  const session = deps.runtime.registry.session(target.sandboxId);
  if (!session) return resumeForRequest(target, request, deps);
  checkTrafficToken(request.headers, target.port, session);
  if (!session.ingress.allowPublicTraffic) noteKey(request.socket);
  return session;
}

/**
 * Passes on an upgrade to a port of a sandbox. Upgrades of the control plane are for the other listener, if there is
 * one.
 */
function upgrade(
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  listenerCount: number,
  deps: DataPlaneDeps,
): void {
  const plane = planeOfRequest(request);
  if (plane.plane !== "data" || plane.target.by !== "id" || plane.target.port === envdPort) {
    if (plane.plane === "control" && listenerCount > 1) return;
    refuseUnknownUpgrade(socket, request);
    return;
  }
  const { sandboxId, port } = plane.target;
  socket.on("error", () => socket.destroy());
  upgradeInto(plane.target, request, socket, head, deps).catch((error: unknown) => {
    if (isDomainError(error)) {
      return refuseUpgrade(socket, request, { sandboxId, message: error.message, code: statusOf(error) });
    }
    deps.log.warn({ err: error, sandboxID: sandboxId, port }, "an upgrade to a port of a sandbox cannot be passed on");
    socket.destroy();
  });
}

async function upgradeInto(
  target: NamedTarget,
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  deps: DataPlaneDeps,
): Promise<void> {
  const { sandboxId, port } = target;
  const session = await sessionForPort(target, request, deps);
  if (!session) return refuseUpgrade(socket, request, sandboxNotFound(sandboxId));
  const leave = countRequest(session);
  if (!leave) return refuseUpgrade(socket, request, tooManyRequests(sandboxId));
  socket.once("close", leave);
  await proxyUpgrade(request, socket, head, session, port);
}

/** The session that the hook found for a request of this plane. */
function sessionOf(request: FastifyRequest): Session {
  const session = sessions.get(request);
  if (!session) throw new Error("a data-plane request reached its handler without a session");
  return session;
}

/**
 * Counts the request among the sandbox's requests; false when there are too many. A kill of the sandbox resets its
 * connections, after which clients ask `/health`.
 */
function enter(session: Session, reply: FastifyReply): boolean {
  const leave = countRequest(session);
  if (!leave) return false;
  const forget = whenSessionEnds(session, () => {
    resetConnection(reply.request.raw.socket);
    reply.raw.destroy();
  });
  reply.raw.once("close", () => {
    forget();
    leave();
  });
  return true;
}

function answerPreflight(request: FastifyRequest, reply: FastifyReply): FastifyReply {
  return reply
    .headers({
      ...corsHeaders,
      "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
      "access-control-allow-headers": request.headers["access-control-request-headers"] ?? "*",
      "access-control-max-age": "7200",
      vary: "Access-Control-Request-Headers",
    })
    .code(204)
    .send();
}
