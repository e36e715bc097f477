/**
 * Access to a sandbox over the data plane: reads what a request shows (an access token, a signed URL, a traffic token)
 * and checks it against one sandbox. Every handler of the data plane, and the resume of a paused sandbox, asks here.
 */
import type { IncomingHttpHeaders, IncomingMessage } from "node:http";
import type { FastifyRequest } from "fastify";
import { deriveTrafficToken, secretsEqual } from "../../src/e2b/access-token.ts";
import {
  fileOperationOf,
  matchesSignature,
  readSignedUrl,
  refuseExpired,
  type SignedUrl,
  signedFileUrl,
} from "../../src/e2b/signatures.ts";
import { DomainError } from "../../src/errors.ts";
import type { SessionDirectory } from "../../src/runtime/sandboxes/registry.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";
import type { SandboxIngress } from "../../src/types.ts";
import { noteKey } from "../http/connections.ts";
import { type DataPlaneTarget, envdPort } from "../http/plane.ts";

/** The header opens the way to a port and is not passed on, because the service at the port has no use for it. */
export const trafficTokenHeader = "e2b-traffic-access-token";

/** The two keys of a sandbox's own that decide who may use it. */
interface SandboxAccess {
  readonly accessToken: string;
  readonly ingress: SandboxIngress;
}

/** The live session that a target names; undefined when there is none. */
export function findSession(target: DataPlaneTarget, method: string, sessions: SessionDirectory): Session | undefined {
  switch (target.by) {
    case "id":
      return sessions.session(target.sandboxId);
    case "accessToken":
      return sessions.sessionByAccessToken(target.accessToken);
    case "signature": {
      const operation = fileOperationOf(method);
      for (const session of sessions.sessions()) {
        if (matchesSignature(target.signed, operation, session.accessToken)) return session;
      }
      return undefined;
    }
    case "preflight":
      return undefined;
    default:
      return target satisfies never;
  }
}

/** Whether a request to envd shows the sandbox's access token. */
export function hasAccessToken(headers: IncomingHttpHeaders, accessToken: string): boolean {
  const given = givenToken(headers);
  return given !== undefined && secretsEqual(given, accessToken);
}

/**
 * Checks a request to `/files`, in E2B's order and words (docs/compatibility.md#files). The signed URL is read from the
 * query that the handler takes the path from.
 * @throws DomainError `unauthenticated`
 */
export function checkFileAccess(request: FastifyRequest, accessToken: string, nowMs: number): void {
  const query = request.query as Readonly<Record<string, unknown>>;
  const signed = readSignedUrl((parameter) => {
    const value = query[parameter];
    return typeof value === "string" ? value : undefined;
  });
  const problem = problemOf(request, signed, accessToken, nowMs);
  if (problem) throw new DomainError("unauthenticated", problem);
  noteKey(request.raw.socket);
}

/**
 * Whether a request may wake a paused sandbox through envd: with its token, or with a signed URL of a file in it.
 * @throws DomainError `unauthenticated` when the signed URL has expired
 */
export function mayWake(request: IncomingMessage, accessToken: string, nowMs: number): boolean {
  return problemOf(request, signedFileUrl(request.url ?? ""), accessToken, nowMs) === undefined;
}

/**
 * Checks a request to a port of a sandbox that takes no public traffic. envd's port has a token of its own.
 * @throws DomainError `permission_denied` in E2B's words
 */
export function checkTrafficToken(
  headers: IncomingHttpHeaders,
  port: number,
  { ingress, accessToken }: SandboxAccess,
): void {
  if (port === envdPort || ingress.allowPublicTraffic) return;
  const given = headers[trafficTokenHeader];
  if (typeof given === "string" && given !== "") {
    if (secretsEqual(given, deriveTrafficToken(accessToken))) return;
    throw trafficDenied(`Provided token in header '${trafficTokenHeader}' is invalid`);
  }
  throw trafficDenied(`Token header '${trafficTokenHeader}' is missing`);
}

/**
 * The reason, in E2B's words, why a request may not use the files of a sandbox; undefined when it may. A token in the
 * header decides alone.
 * @throws DomainError `unauthenticated` when the signed URL has expired
 */
function problemOf(
  { headers, method }: Pick<IncomingMessage, "headers" | "method">,
  signed: SignedUrl | undefined,
  accessToken: string,
  nowMs: number,
): string | undefined {
  if (givenToken(headers) !== undefined) {
    return hasAccessToken(headers, accessToken) ? undefined : "access token present in header but does not match";
  }
  if (!signed) return "missing signature query parameter";
  if (!matchesSignature(signed, fileOperationOf(method), accessToken)) return "invalid signature";
  refuseExpired(signed, nowMs);
  return undefined;
}

/** The access token that a request shows. An empty header is none. */
function givenToken(headers: IncomingHttpHeaders): string | undefined {
  const given = headers["x-access-token"];
  return typeof given === "string" && given !== "" ? given : undefined;
}

function trafficDenied(problem: string): DomainError {
  return new DomainError("permission_denied", `Sandbox is secured with traffic access token. ${problem}`);
}
