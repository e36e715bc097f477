/**
 * One port serves two planes: the control plane (create, list, kill …) and the data plane (envd and ports inside a
 * sandbox). This file alone decides which of them a request means, and which sandbox. Pure: it looks at the request
 * line and headers and knows no sandbox, so that it cannot tell an unknown one from a live one.
 */
import type { IncomingHttpHeaders } from "node:http";
import type { SignedUrl } from "../../src/e2b/signatures.ts";

/** The port of envd, the agent that every sandbox answers commands and file requests on. */
export const envdPort = 49983;

/** How a data-plane request says which sandbox it means. Ids are well-formed, but nobody has looked whether they exist. */
export type DataPlaneTarget =
  /** Named by headers or by host: `<port>-<id>.<domain>`. */
  | { readonly by: "id"; readonly sandboxId: string; readonly port: number }
  /** Only an `X-Access-Token`: unique per sandbox, so it names one. Always envd. */
  | { readonly by: "accessToken"; readonly accessToken: string; readonly port: typeof envdPort }
  /** A signed URL without any id: the sandbox is the one whose token makes this signature. Always envd's `/files`. */
  | { readonly by: "signature"; readonly signed: SignedUrl; readonly port: typeof envdPort }
  /** A browser asks whether it may send headers that would name a sandbox. Answered without one. */
  | { readonly by: "preflight" };

export type Plane =
  | { readonly plane: "control" }
  | { readonly plane: "data"; readonly target: DataPlaneTarget }
  /** Means the data plane, but not in a way that names a sandbox. 400 is answered as plain text, 401 as JSON. */
  | { readonly plane: "bad"; readonly status: 400 | 401; readonly message: string };

/** What the decision needs of a request; `IncomingMessage` has it. */
export interface RequestHead {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
  readonly headers: IncomingHttpHeaders;
}

const control: Plane = { plane: "control" };
const envdOnlyPath = /^\/(?:files(?:\/compose)?|envs|process\.Process\/.*|filesystem\.Filesystem\/.*)$/;
/** Both planes have these two; only a mark makes them envd's. */
const sharedPath = /^\/(?:health|metrics)$/;
const sandboxId = /^[a-z0-9]+$/;
/** The label after which a host belongs to a sandbox. What follows the id (`-<clientID>`) is the older form. */
const sandboxHost = /^(\d+)-([^.]*)\./;

/**
 * Decides by, in this order: a host `<port>-<id>.<domain>`, the headers `E2b-Sandbox-Id` and `E2b-Sandbox-Port`, and, on
 * envd's paths, an `X-Access-Token` or a `signature` in the query (reference 3.1, 3.2).
 */
export function planeOf({ method, url = "/", headers }: RequestHead): Plane {
  const byHost = sandboxHost.exec(headers.host?.toLowerCase() ?? "");
  if (byHost) return namedTarget(byHost[2]?.split("-", 1)[0] ?? "", byHost[1] ?? "");

  const id = headers["e2b-sandbox-id"];
  const port = headers["e2b-sandbox-port"];
  if (id !== undefined || port !== undefined) {
    if (typeof id !== "string" || typeof port !== "string") return bad("missing header");
    return namedTarget(id, port);
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

/** envd's own words for a request that proves nothing. */
const unauthorized: Plane = {
  plane: "bad",
  status: 401,
  message: "unauthorized access, please provide a valid access token or method signing if supported",
};

function namedTarget(id: string, portText: string): Plane {
  const port = /^\d{1,5}$/.test(portText) ? Number(portText) : 0;
  if (port < 1 || port > 65535) return bad("Invalid sandbox port");
  if (!sandboxId.test(id)) return bad("Invalid sandbox ID");
  return { plane: "data", target: { by: "id", sandboxId: id, port } };
}

/** What a signed URL of a file says; undefined when `url` is none. */
export function signedFileUrl(url: string): SignedUrl | undefined {
  if (!url.startsWith("/files?")) return undefined;
  const values = new URLSearchParams(url.slice("/files?".length));
  const signature = values.get("signature");
  if (!signature) return undefined;
  return {
    path: values.get("path") ?? "",
    username: values.get("username") ?? "",
    signature,
    expiration: values.get("signature_expiration") ?? undefined,
  };
}

function bad(message: string): Plane {
  return { plane: "bad", status: 400, message };
}
