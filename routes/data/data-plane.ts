/**
 * The data plane: everything that goes into a sandbox. Finds the session a request is for, resuming its sandbox where
 * that is wanted, checks that the caller may use it, and drops the connection when the session ends under it.
 */
import { type IncomingMessage, METHODS } from "node:http";
import type { Duplex } from "node:stream";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Clock } from "../../src/clock.ts";
import { isDomainError } from "../../src/errors.ts";
import type { Logger } from "../../src/log.ts";
import type { SessionDirectory } from "../../src/runtime/sandboxes/registry.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";
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
import { proxyRequest, proxyUpgrade, refuseUpgrade, sendRefusal } from "./sandbox-proxy.ts";

export interface DataPlaneDeps {
  readonly runtime: AutoResumeDeps["runtime"] & { readonly registry: SessionDirectory };
  readonly clock: Clock;
  readonly log: Logger;
  /** How long a client may send nothing of a body that it announced. Default a minute. */
  readonly bodyIdleMs?: number;
}

const corsHeaders = {
  "access-control-allow-origin": "*",
  "access-control-expose-headers":
    "Connect-Content-Encoding, Connect-Accept-Encoding, Grpc-Status, Grpc-Message, Location, Cache-Control, X-Content-Type-Options",
} as const;
/** Input of a process as it is typed. */
const endlessBodyRoute = "/process.Process/StreamInput";
const defaultBodyIdleMs = 60_000;

const sessions = new WeakMap<FastifyRequest, Session>();
type NamedTarget = DataPlaneTarget & { readonly by: "id" };

/** Registers everything that goes into a sandbox. The app's router must know the constraint `plane`. */
export async function registerDataPlane(app: FastifyInstance, deps: DataPlaneDeps): Promise<void> {
  // A service in a sandbox may speak WebDAV: what is understood is for it to say.
  for (const method of METHODS) {
    if (!app.supportedMethods.includes(method)) app.addHttpMethod(method, { hasBody: true });
  }
  await app.register(async (plane) => {
    routesBelongTo(plane, "data");
    plane.addHook("onRequest", (request, reply) => admit(request, reply, deps));
    const envdDeps = { ...deps, sessionOf };
    await plane.register(envdHttp, envdDeps);
    await plane.register(envdFiles, envdDeps);
    await plane.register(envdCompose, envdDeps);
    await plane.register(envdRpc, envdDeps);
  });
  // Upgrades never become requests for the router: Node hands over the bare connection, and forgets it.
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

/** Answers what needs no session or may not have one; lets the rest through with its session found. */
async function admit(request: FastifyRequest, reply: FastifyReply, deps: DataPlaneDeps) {
  const target = targetOf(request);
  if (target.by === "preflight") return answerPreflight(request, reply);
  if (target.by === "id" && target.port !== envdPort) return admitToPort(target, request, reply, deps);
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
  sessions.set(request, session);
  if (request.routeOptions.url !== endlessBodyRoute) dropIdleBody(request.raw, deps.bodyIdleMs ?? defaultBodyIdleMs);
  return undefined;
}

/** Passes a request on to a port that a service of the sandbox's own listens on. */
async function admitToPort(
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

/** The session of a sandbox that the request may use the ports of, resumed if that is wanted; undefined: there is none. */
async function sessionForPort(
  target: NamedTarget,
  request: IncomingMessage,
  deps: DataPlaneDeps,
): Promise<Session | undefined> {
  const session = deps.runtime.registry.session(target.sandboxId);
  if (!session) return resumeForRequest(target, request, deps);
  checkTrafficToken(request.headers, target.port, session);
  return session;
}

/** WebSockets to ports of sandboxes. Upgrades of the control plane belong to whoever else listens, if anybody does. */
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
    refuseUpgrade(socket, request, { code: 400, message: "nothing to upgrade to here" });
    return;
  }
  const { sandboxId, port } = plane.target;
  socket.on("error", () => socket.destroy());
  upgradeInto(plane.target, request, socket, head, deps).catch((error: unknown) => {
    if (isDomainError(error)) {
      return refuseUpgrade(socket, request, { sandboxId, message: error.message, code: statusOf(error) });
    }
    deps.log.warn({ err: error, sandboxID: sandboxId, port }, "an upgrade could not be passed on");
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
 * Counts the request among the sandbox's; false when those are too many. A sandbox that is killed takes its connections
 * along, without a clean end: clients ask `/health` then.
 */
function enter(session: Session, reply: FastifyReply): boolean {
  const leave = countRequest(session);
  if (!leave) return false;
  const forget = whenSessionEnds(session, () => reply.raw.destroy());
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
