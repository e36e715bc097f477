/**
 * The WebSocket routes `/sandboxes/{id}/terminal` and `/sandboxes/{id}/processes` decide which clients may open a
 * connection, and to which session. `process-socket.ts` handles the messages on it.
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
import { refuseUnknownUpgrade } from "../data/sandbox-proxy.ts";
import { sendError } from "../http/errors.ts";
import { planeOfRequest } from "../http/plane-constraint.ts";
import { type ApiKeyCheck, checkKey } from "./authentication.ts";
import { closeCodes, type ProcessSocketKind } from "./process-protocol.ts";
import { ProcessSocket } from "./process-socket.ts";
import { SocketTickets } from "./socket-tickets.ts";

export interface WebSocketDeps {
  readonly runtime: Pick<Runtime, "registry" | "traffic">;
  readonly isApiKey: ApiKeyCheck;
  readonly clock: Clock;
}

/** The longest message that a client may send. */
const maxMessageBytes = 128 * 1024;
const maxSocketsPerSandbox = 64;
const heartbeatMs = 30_000;
const ourPath = /^\/sandboxes\/[^/?]+\/(?:terminal|processes)(?:\?|$)/;

export async function webSocketRoutes(scope: FastifyInstance, deps: WebSocketDeps): Promise<void> {
  const tickets = new SocketTickets(deps.clock);
  await acceptWebSockets(scope);
  ticketRoute(scope, deps, tickets);
  const open = keepAlive(scope, deps.clock);
  for (const kind of ["terminal", "processes"] as const satisfies ProcessSocketKind[]) {
    socketRoute(scope, kind, deps, tickets, open);
  }
}

/** Makes `scope` answer upgrades to its own paths. */
async function acceptWebSockets(scope: FastifyInstance): Promise<void> {
  await scope.register(websocket, {
    options: { maxPayload: maxMessageBytes, server: controlUpgrades(scope) as FastifyInstance["server"] },
    errorHandler(error, socket, request) {
      // A client's own mistakes close the connection already: a message that is too long, bytes that are no frames.
      request.log.debug({ err: error }, "a WebSocket failed");
      socket.close(1011);
    },
    preClose(done) {
      for (const socket of scope.websocketServer.clients) socket.close(closeCodes.daemonStops, "the daemon stops");
      scope.websocketServer.close(() => done());
    },
  });
  // The plugin closes only the connections of requests that reached its own hooks.
  scope.addHook("onResponse", async ({ raw }) => {
    if (raw.headers.upgrade !== undefined) raw.socket.destroy();
  });
}

/** The open connections, each with a heartbeat until `scope` closes. */
function keepAlive(scope: FastifyInstance, clock: Clock): Set<ProcessSocket> {
  const open = new Set<ProcessSocket>();
  const beatAll = () => {
    for (const socket of open) socket.beat();
  };
  const onError = (err: unknown) => scope.log.error({ err }, "the heartbeat of WebSockets failed");
  const heartbeat = runEvery(clock, heartbeatMs, beatAll, onError);
  scope.addHook("onClose", () => heartbeat[Symbol.asyncDispose]());
  return open;
}

function ticketRoute(scope: FastifyInstance, { runtime, clock }: WebSocketDeps, tickets: SocketTickets): void {
  scope
    .withTypeProvider<ZodTypeProvider>()
    .post(
      "/sandboxes/:sandboxID/ticket",
      { schema: { params: SandboxParams, response: { 201: SocketTicket, "4xx": ApiError } } },
      async ({ params }, reply) => {
        const id = parseSandboxId(params.sandboxID);
        await findSession(runtime, id);
        const { ticket, lifeMs } = tickets.issue(id);
        return reply.code(201).send({ ticket, expiresAt: new Date(clock.nowMs() + lifeMs).toISOString() });
      },
    );
}

function socketRoute(
  scope: FastifyInstance,
  kind: ProcessSocketKind,
  { runtime, isApiKey }: WebSocketDeps,
  tickets: SocketTickets,
  open: Set<ProcessSocket>,
): void {
  const sessions = new WeakMap<FastifyRequest, Session>();
  scope.route<{ Params: { sandboxID: string }; Querystring: { ticket?: unknown } }>({
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

/** The upgrades that are for these routes. The data plane hears the same event and takes those into sandboxes. */
function controlUpgrades(app: FastifyInstance): EventEmitter {
  const ours = new EventEmitter();
  app.server.on("upgrade", (request, socket: Duplex, head: Buffer) => {
    if (planeOfRequest(request).plane !== "control") return;
    if (ourPath.test(request.url ?? "")) ours.emit("upgrade", request, socket, head);
    else refuseUnknownUpgrade(socket, request);
  });
  return ours;
}

/**
 * The session of a sandbox, which is resumed when it is paused and allows that.
 * @throws DomainError `not_found`; `invalid_state` for a paused sandbox that requests may not resume; every error of a
 *   resume
 */
async function findSession(runtime: WebSocketDeps["runtime"], id: string): Promise<Session> {
  const session = runtime.registry.session(id) ?? (await runtime.traffic.resumeForTraffic(id));
  if (session) return session;
  runtime.registry.get(id);
  throw new DomainError("invalid_state", `Sandbox ${id} is paused: resume it first`);
}
