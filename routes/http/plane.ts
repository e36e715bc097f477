/**
 * The plane of a request: one port serves the control plane (create, list, kill …) and the data plane (envd and ports
 * inside a sandbox). This file alone decides which of them a request means, and which sandbox. Pure: it looks at the
 * request line and headers and knows no sandbox, so it cannot tell an unknown sandbox from a live one.
 */
import type { IncomingHttpHeaders } from "node:http";
import { type SignedUrl, signedFileUrl } from "../../src/e2b/signatures.ts";
import { parseId, parsePort, parseSandboxHost } from "./sandbox-host.ts";

/** The port of envd, the agent that every sandbox answers commands and file requests on. */
export const envdPort = 49983;

/**
 * The target is how a data-plane request names its sandbox. Ids are well-formed; whether they exist is not known here.
 */
export type DataPlaneTarget =
  /** Named by headers or by host: `<port>-<id>.<domain>`. */
  | { readonly by: "id"; readonly sandboxId: string; readonly port: number }
  /** Named by an `X-Access-Token` alone, which is unique per sandbox. Always envd. */
  | { readonly by: "accessToken"; readonly accessToken: string; readonly port: typeof envdPort }
  /**
   * Named by a signed URL without any id: it means the sandbox with the token that makes this signature. Always
   * `/files`.
   */
  | { readonly by: "signature"; readonly signed: SignedUrl; readonly port: typeof envdPort }
  /** A browser asks whether it may send headers that would name a sandbox. The answer needs no sandbox. */
  | { readonly by: "preflight" };

export type Plane =
  | { readonly plane: "control" }
  | { readonly plane: "data"; readonly target: DataPlaneTarget }
  /** The request means the data plane and names no sandbox. The answer is plain text with 400, JSON with 401. */
  | { readonly plane: "bad"; readonly status: 400 | 401; readonly message: string };

/** The part of a request that decides; `IncomingMessage` has it. */
export interface RequestHead {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
  readonly headers: IncomingHttpHeaders;
}

const control: Plane = { plane: "control" };
const envdOnlyPath = /^\/(?:files(?:\/compose)?|envs|process\.Process\/.*|filesystem\.Filesystem\/.*)$/;
/** Both planes have these two paths; only a token, a header or a host makes a request for them envd's. */
const sharedPath = /^\/(?:health|metrics)$/;

/**
 * Decides by, in this order: a host `<port>-<id>.<domain>`, the headers `E2b-Sandbox-Id` and `E2b-Sandbox-Port`, and,
 * on envd's paths, an `X-Access-Token` or a `signature` in the query (docs/compatibility.md#ports).
 */
export function planeOf({ method, url = "/", headers }: RequestHead): Plane {
  const byHost = parseSandboxHost(headers.host ?? "");
  if (byHost) return namedTarget(byHost.sandboxId, byHost.port);

  const id = headers["e2b-sandbox-id"];
  const port = headers["e2b-sandbox-port"];
  if (id !== undefined || port !== undefined) {
    if (typeof id !== "string" || typeof port !== "string") return bad("missing header");
    return namedTarget(parseId(id), parsePort(port));
  }

  const queryAt = url.indexOf("?");
  const path = queryAt < 0 ? url : url.slice(0, queryAt);
  const isEnvdOnly = envdOnlyPath.test(path);
  if (method === "OPTIONS" && headers["access-control-request-method"] !== undefined) {
    const asks = headers["access-control-request-headers"]?.toLowerCase() ?? "";
    if (isEnvdOnly || asks.includes("e2b-sandbox-id") || asks.includes("x-access-token")) {
      return { plane: "data", target: { by: "preflight" } };
    }
  }
  if (!isEnvdOnly && !sharedPath.test(path)) return control;

  const accessToken = headers["x-access-token"];
  if (typeof accessToken === "string" && accessToken !== "") {
    return { plane: "data", target: { by: "accessToken", accessToken, port: envdPort } };
  }
  const signed = signedFileUrl(url);
  if (signed) return { plane: "data", target: { by: "signature", signed, port: envdPort } };
  return isEnvdOnly ? unauthorized : control;
}

/** envd's own words for a request that shows neither its token nor a signature. */
export const unauthorizedMessage =
  "unauthorized access, please provide a valid access token or method signing if supported";
const unauthorized: Plane = { plane: "bad", status: 401, message: unauthorizedMessage };

function namedTarget(sandboxId: string | undefined, port: number | undefined): Plane {
  if (port === undefined) return bad("Invalid sandbox port");
  if (sandboxId === undefined) return bad("Invalid sandbox ID");
  return { plane: "data", target: { by: "id", sandboxId, port } };
}

function bad(message: string): Plane {
  return { plane: "bad", status: 400, message };
}
