/**
 * Authentication of the control plane: a client needs an API key. The key in a header also keeps web pages out, which
 * can send requests to this machine and do not know a key. The data plane has tokens of its own.
 */
import type { FastifyRequest } from "fastify";
import { DomainError } from "../../src/errors.ts";
import { noteKey } from "../http/connections.ts";

/** Tells in constant time whether a text is an API key. */
export type ApiKeyCheck = (candidate: string) => boolean;

/**
 * A route without the check of the key declares it: `config: { access: "open" }`, `"loopback"` for peers on this
 * machine, or `"ticket"` for a route that checks a key or a ticket itself.
 */
declare module "fastify" {
  interface FastifyContextConfig {
    readonly access?: "open" | "loopback" | "ticket";
  }
}

/**
 * Judges a control-plane request. The key comes as `X-API-Key` or, from older command lines, as `Authorization:
 * Bearer`.
 * @returns `unauthenticated` in E2B's words; undefined when the request may pass
 */
export function authenticate(request: FastifyRequest, isApiKey: ApiKeyCheck): DomainError | undefined {
  const { access } = request.routeOptions.config;
  if (access === "open" || access === "ticket") return undefined;
  if (access === "loopback" && isLoopback(request.socket.remoteAddress)) return undefined;
  return checkKey(request, isApiKey);
}

/** Judges the key of a request, and notes on its connection that it is right. @returns `unauthenticated` without a right key; undefined with one */
export function checkKey(request: FastifyRequest, isApiKey: ApiKeyCheck): DomainError | undefined {
  const key = keyOf(request);
  if (key === undefined) return refusal("There is no X-API-Key header.");
  if (isApiKey(key)) {
    noteKey(request.raw.socket);
    return undefined;
  }
  return refusal("The key is not this daemon's: `npx firkin env` prints that one.");
}

/** The key that a request came with, right or wrong. */
export function keyOf({ headers }: FastifyRequest): string | undefined {
  const key = headers["x-api-key"];
  if (typeof key === "string") return key;
  return /^Bearer +(\S+)$/i.exec(headers.authorization ?? "")?.[1];
}

function refusal(detail: string): DomainError {
  const message = "Invalid API key, please visit https://e2b.dev/docs/api-key for more information.";
  return new DomainError("unauthenticated", `${message}\n${detail}`);
}

function isLoopback(address = ""): boolean {
  return address === "::1" || /^(?:::ffff:)?127\.\d+\.\d+\.\d+$/.test(address);
}
