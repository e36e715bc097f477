/**
 * The routes of E2B that this daemon does not serve yet, each with its feature. They answer 501, so that a client
 * learns which feature is missing, where a 404 would leave it to guess. A route that is built leaves this table.
 */
import type { FastifyInstance, HTTPMethods } from "fastify";
import { DomainError } from "../../src/errors.ts";

const oldBuilds = "Building templates the way before POST /v3/templates";
const volumes = "Volumes";
const secrets = "Secrets";
const nodes = "Nodes";
const administration = "Administration";
const events = "Events and webhooks";

const routes: readonly (readonly [methods: HTTPMethods | readonly HTTPMethods[], path: string, feature: string])[] = [
  ["POST", "/v2/templates", oldBuilds],
  ["POST", "/templates", oldBuilds],
  ["POST", "/templates/:templateID", oldBuilds],
  ["POST", "/templates/:templateID/builds/:buildID", oldBuilds],
  [["GET", "POST"], "/volumes", volumes],
  [["GET", "DELETE"], "/volumes/:volumeID", volumes],
  [["GET", "PATCH", "DELETE"], "/volumecontent/:volumeID/path", volumes],
  [["GET", "POST"], "/volumecontent/:volumeID/dir", volumes],
  [["GET", "PUT"], "/volumecontent/:volumeID/file", volumes],
  [["GET", "POST"], "/secrets", secrets],
  [["GET", "POST", "DELETE"], "/secrets/:secretID", secrets],
  ["GET", "/nodes", nodes],
  [["GET", "POST"], "/nodes/:nodeID", nodes],
  ["POST", "/admin/teams/:teamID/sandboxes/kill", administration],
  ["GET", "/admin/sandboxes/running-counts", administration],
  ["POST", "/admin/teams/:teamID/builds/cancel", administration],
  ["POST", "/admin/teams/:teamID/api-keys", administration],
  ["DELETE", "/admin/teams/:teamID/api-keys/:apiKeyID", administration],
  ["GET", "/events/sandboxes", events],
  ["GET", "/events/sandboxes/:sandboxID", events],
  [["GET", "POST"], "/events/webhooks", events],
  [["GET", "PATCH", "DELETE"], "/events/webhooks/:webhookID", events],
];

export async function unsupportedRoutes(app: FastifyInstance): Promise<void> {
  for (const [methods, url, feature] of routes) {
    // The refusal comes before the body is read, which may be of a type that no parser here takes.
    const refuse = async () => {
      throw new DomainError("unsupported", `${feature}: not supported by this daemon yet.`, { feature });
    };
    app.route({ method: [methods].flat(), url, schema: { hide: true }, onRequest: refuse, handler: refuse });
  }
}
