/**
 * The WebSockets `/sandboxes/{id}/terminal` and `/sandboxes/{id}/processes`: who may open one, and to which session. What
 * is said on them is `process-socket.ts`'s.
 */
import { EventEmitter } from "node:events";
import type { Duplex } from "node:stream";
import websocket from "@fastify/websocket";
import type { FastifyInstance, FastifyRequest } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import type { Clock } from "../../src/clock.ts";
import { parseSandboxId } from "../../src/e2b/ids.ts";
import { ApiError, SandboxParams, SocketTicket } from "../../src/e2b/schemas.ts";
import { DomainError } from "../../src/errors.ts";
import { runEvery } from "../../src/run-every.ts";
import type { Runtime } from "../../src/runtime/runtime.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";
import { refuseUpgrade } from "../data/sandbox-proxy.ts";
import { sendError } from "../http/errors.ts";
import { planeOfRequest } from "../http/plane-constraint.ts";
import { type ApiKeyCheck, checkKey } from "./authentication.ts";
import type { ProcessSocketKind } from "./process-messages.ts";
import { ProcessSocket } from "./process-socket.ts";
import { SocketTickets } from "./socket-tickets.ts";

export interface WebSocketDeps {
  readonly runtime: Pick<Runtime, "registry" | "traffic">;
  readonly isApiKey: ApiKeyCheck;
  readonly clock: Clock;
}

/** A message from a client, whole. */
const maxMessageBytes = 128 * 1024;
const maxSocketsPerSandbox = 64;
const heartbeatMs = 30_000;
const ourPath = /^\/sandboxes\/[^/?]+\/(?:terminal|processes)(?:\?|$)/;

export async function webSocketRoutes(scope: FastifyInstance, deps: WebSocketDeps): Promise<void> {
  const { runtime, isApiKey, clock } = deps;
  const app = scope.withTypeProvider<ZodTypeProvider>();
  const tickets = new SocketTickets(clock);
  const open = new Set<ProcessSocket>();
  const sessions = new WeakMap<FastifyRequest, Session>();
  await app.register(websocket, {
    options: { maxPayload: maxMessageBytes, server: controlUpgrades(app) as FastifyInstance["server"] },
    errorHandler(error, socket, request) {
      // What the client did wrong closes the connection by itself: too long a message, bytes that are no frames.
      request.log.debug({ err: error }, "a WebSocket failed");
      socket.close(1011);
    },
    preClose(done) {
      for (const socket of app.websocketServer.clients) socket.close(1001, "the daemon stops");
      app.websocketServer.close(() => done());
    },
  });
  // The plugin does this only for requests that came as far as its own hooks.
  app.addHook("onResponse", async ({ raw }) => {
    if (raw.headers.upgrade !== undefined) raw.socket.destroy();
  });
  const onError = (err: unknown) => app.log.error({ err }, "the heartbeat of WebSockets failed");
  const heartbeat = runEvery(clock, heartbeatMs, () => beatAll(open), onError);
  app.addHook("onClose", () => heartbeat[Symbol.asyncDispose]());

  app.post(
    "/sandboxes/:sandboxID/ticket",
    { schema: { params: SandboxParams, response: { 201: SocketTicket, "4xx": ApiError } } },
    async ({ params }, reply) => {
      const id = parseSandboxId(params.sandboxID);
      await findSession(runtime, id);
      const { ticket, lifeMs } = tickets.issue(id);
      return reply.code(201).send({ ticket, expiresAt: new Date(clock.nowMs() + lifeMs).toISOString() });
    },
  );

  for (const kind of ["terminal", "processes"] as const satisfies ProcessSocketKind[]) {
    app.route<{ Params: { sandboxID: string }; Querystring: { ticket?: unknown } }>({
      method: "GET",
      url: `/sandboxes/:sandboxID/${kind}`,
      config: { access: "ticket" },
      schema: { hide: true },
      async onRequest(request) {
        if (!request.ws) return;
        const { ticket } = request.query;
        if (typeof ticket === "string" && tickets.redeem(ticket, request.params.sandboxID)) return;
        const refusal = checkKey(request, isApiKey);
        if (refusal) throw refusal;
      },
      async preHandler(request) {
        if (!request.ws) return;
        const id = parseSandboxId(request.params.sandboxID);
        if ([...open].filter(({ sandboxId }) => sandboxId === id).length >= maxSocketsPerSandbox) {
          throw new DomainError("capacity_exhausted", `There are ${maxSocketsPerSandbox} WebSockets to ${id} already`);
        }
        sessions.set(request, await findSession(runtime, id));
      },
      handler: (_request, reply) => sendError(reply.header("upgrade", "websocket"), 426, "This is a WebSocket"),
      wsHandler(socket, request) {
        const session = sessions.get(request);
        if (!session) throw new DomainError("internal", "a WebSocket got to its handler without a session");
        const connection = new ProcessSocket(socket, session, kind);
        open.add(connection);
        socket.once("close", () => open.delete(connection));
      },
    });
  }
}

function beatAll(sockets: ReadonlySet<ProcessSocket>): void {
  for (const socket of sockets) socket.beat();
}

/** Upgrades that are for these routes; those into sandboxes are the data plane's, which hears the same event. */
function controlUpgrades(app: FastifyInstance): EventEmitter {
  const ours = new EventEmitter();
  app.server.on("upgrade", (request, socket: Duplex, head: Buffer) => {
    if (planeOfRequest(request).plane !== "control") return;
    if (ourPath.test(request.url ?? "")) ours.emit("upgrade", request, socket, head);
    else refuseUpgrade(socket, request, { code: 400, message: "nothing to upgrade to here" });
  });
  return ours;
}

/** @throws not_found, invalid_state (paused, and not to be resumed by requests); as a resume. */
async function findSession(runtime: WebSocketDeps["runtime"], id: string): Promise<Session> {
  const session = runtime.registry.session(id) ?? (await runtime.traffic.resumeForTraffic(id));
  if (session) return session;
  runtime.registry.get(id);
  throw new DomainError("invalid_state", `Sandbox ${id} is paused: resume it first`);
}
