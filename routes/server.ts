/**
 * The HTTP server: both planes on one port, one shape of errors, and the checks that hold for every request. The caller
 * makes it listen. Tests use `inject`.
 */
import { type FastifyBaseLogger, type FastifyInstance, fastify, LogController } from "fastify";
import { validatorCompiler } from "fastify-type-provider-zod";
import { type Clock, systemClock } from "../src/clock.ts";
import type { Runtime } from "../src/runtime/runtime.ts";
import type { ApiKeys } from "../src/team/keyring.ts";
import type { Templates } from "../src/template/templates.ts";
import { consoleRoutes } from "./console/serve.ts";
import { type ApiKeyCheck, authenticate } from "./control/authentication.ts";
import { observabilityRoutes } from "./control/observability.ts";
import { describeRoutes } from "./control/openapi.ts";
import { type QuarantineDeps, quarantineRoutes } from "./control/quarantine.ts";
import { sandboxListings } from "./control/sandbox-listings.ts";
import { sandboxLogRoutes } from "./control/sandbox-logs.ts";
import { sandboxSnapshotRoutes } from "./control/sandbox-snapshots.ts";
import { sandboxRoutes } from "./control/sandboxes.ts";
import { teamRoutes } from "./control/teams.ts";
import { templateBuildRoutes } from "./control/template-builds.ts";
import { templateUploadRoutes } from "./control/template-uploads.ts";
import { templateRoutes } from "./control/templates.ts";
import { unsupportedRoutes } from "./control/unsupported.ts";
import { webSocketRoutes } from "./control/web-sockets.ts";
import { type ConnectionLimits, guardConnections } from "./http/connections.ts";
import { handleClientError, handleError, sendError } from "./http/errors.ts";
import { isKnownHost, isOwnOrigin, ownHostNames } from "./http/host-check.ts";
import { planeConstraint, planeOfRequest, routesBelongTo } from "./http/plane-constraint.ts";

interface ServerConfig {
  readonly isApiKey: ApiKeyCheck;
  /** The longest time to live that a client may ask for. */
  readonly maxTimeoutMs: number;
  /** The domain of the daemon's own names, besides localhost and addresses. Lower case, no port. */
  readonly domain?: string;
  /** How long a client may take to send the body of a control-plane request. Default 30 s. */
  readonly bodyTimeoutMs?: number;
  /** How long a client may take to send the head of any request. Default 20 s. */
  readonly headTimeoutMs?: number;
  /** Default: those of the connection guard. */
  readonly connectionLimits?: ConnectionLimits;
}

export interface ServerDeps {
  readonly runtime: Runtime;
  readonly templates: Templates;
  readonly quarantine: QuarantineDeps["quarantine"];
  /** The one team that may use the daemon, named by a UUID, and its keys besides the machine's own. */
  readonly team: { readonly id: string; readonly apiKeys: ApiKeys };
  readonly config: ServerConfig;
  readonly log: FastifyBaseLogger;
  readonly metricsText: () => Promise<string>;
  /** The daemon's version, for `/openapi.json`. */
  readonly version: string;
  /** Default: the system's clock. */
  readonly clock?: Clock;
  /** Adds the routes of the data plane. */
  readonly registerDataPlane?: (app: FastifyInstance) => Promise<void>;
}

/** Bodies of the control plane are small. The data plane streams its bodies. */
const bodyLimitBytes = 1024 * 1024;
const defaultBodyTimeoutMs = 30_000;
const defaultHeadTimeoutMs = 20_000;

/** A server with every route, not yet listening. */
export function buildServer(deps: ServerDeps): FastifyInstance {
  const headersTimeout = deps.config.headTimeoutMs ?? defaultHeadTimeoutMs;
  const app = fastify({
    http: { headersTimeout, connectionsCheckingInterval: Math.min(headersTimeout, 5_000) },
    loggerInstance: deps.log,
    // Clients poll, so a line per request would bury the lines about sandboxes.
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: bodyLimitBytes,
    forceCloseConnections: true,
    // While the daemon stops, the runtime itself refuses new work, with a body that clients understand.
    return503OnClosing: false,
    routerOptions: { constraints: { plane: planeConstraint } },
    frameworkErrors: handleError,
    clientErrorHandler: handleClientError,
  });
  guardConnections(app.server, deps.clock ?? systemClock, deps.config.connectionLimits);
  // A head that is cut off may lose what frames its body. The size of the head is the limit.
  app.server.maxHeadersCount = 0;
  app.setErrorHandler(handleError);
  app.setValidatorCompiler(validatorCompiler);
  // Typed functions make the answers. Schemas describe them for `/openapi.json` and do not check them again.
  app.setSerializerCompiler(() => JSON.stringify);
  checkEveryRequest(app, deps.config.domain === undefined ? new Set() : ownHostNames(deps.config.domain));
  app.register(async (scope) => controlPlane(scope, deps));
  app.register(async (scope) => {
    // The upload route stands apart, because its bodies are neither small nor JSON and its token is in the URL.
    routesBelongTo(scope, "control");
    await templateUploadRoutes(scope, deps);
  });
  const { registerDataPlane } = deps;
  if (registerDataPlane) app.register(async (scope) => registerDataPlane(scope));
  return app;
}

/** Checks the host, the origin and the plane of every request, also of those without a route. */
function checkEveryRequest(app: FastifyInstance, hostNames: ReadonlySet<string>): void {
  app.addHook("onRequest", (request, reply, next) => {
    if (!isKnownHost(request.headers.host, hostNames)) {
      sendError(reply, 421, "This Host is none of this daemon's names: use localhost or its address.");
      return;
    }
    const plane = planeOfRequest(request.raw);
    if (plane.plane === "control" && !isOwnOrigin(request.headers)) {
      sendError(reply, 403, "A page of another origin must not use this API.");
      return;
    }
    if (plane.plane !== "bad") next();
    else if (plane.status === 401) sendError(reply, 401, plane.message);
    else reply.code(plane.status).type("text/plain; charset=utf-8").send(plane.message);
  });
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split("?", 1)[0] ?? "";
    return sendError(reply, 404, `There is no ${request.method} ${path}`);
  });
}

async function controlPlane(scope: FastifyInstance, deps: ServerDeps): Promise<void> {
  const { runtime, templates, team, config, metricsText } = deps;
  routesBelongTo(scope, "control");
  acceptEmptyJson(scope);
  scope.addHook("onRequest", (request, _reply, next) => next(authenticate(request, config.isApiKey)));
  boundBodyTime(scope, config.bodyTimeoutMs ?? defaultBodyTimeoutMs);
  await describeRoutes(scope, deps.version);
  await scope.register(sandboxListings, { runtime });
  await scope.register(sandboxLogRoutes, { runtime });
  await scope.register(sandboxRoutes, { runtime, maxTimeoutMs: config.maxTimeoutMs });
  await scope.register(templateRoutes, { templates, runtime });
  await scope.register(templateBuildRoutes, { templates });
  await scope.register(sandboxSnapshotRoutes, { runtime, maxTimeoutMs: config.maxTimeoutMs });
  await scope.register(consoleRoutes);
  await scope.register(teamRoutes, { runtime, team });
  await scope.register(webSocketRoutes, { runtime, isApiKey: config.isApiKey, clock: deps.clock ?? systemClock });
  await scope.register(quarantineRoutes, { quarantine: deps.quarantine });
  await scope.register(unsupportedRoutes);
  await scope.register(observabilityRoutes, { runtime, metricsText });
}

/** Accepts JSON alone, and an empty body as none, because clients announce JSON for bodies that they leave out. */
function acceptEmptyJson(scope: FastifyInstance): void {
  const parseJson = scope.getDefaultJsonParser("error", "error");
  scope.removeAllContentTypeParsers();
  scope.addContentTypeParser<string>("application/json", { parseAs: "string" }, (request, body, done) => {
    if (body === "") done(null, undefined);
    else void parseJson(request, body, done);
  });
}

/** Ends the connection of a client that stops in the middle of a body. */
function boundBodyTime(scope: FastifyInstance, timeoutMs: number): void {
  scope.addHook("preParsing", ({ raw }, _reply, _payload, done) => {
    if (raw.headers["content-length"] !== undefined || raw.headers["transfer-encoding"] !== undefined) {
      const timer = setTimeout(() => raw.destroy(), timeoutMs);
      raw.once("close", () => clearTimeout(timer));
    }
    done();
  });
}
