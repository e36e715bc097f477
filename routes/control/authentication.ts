/**
 * Who may use the control plane: whoever knows the machine's API key. The key in a header also keeps web pages out,
 * which can send requests to this machine but cannot know it. The data plane has tokens of its own.
 */
import type { FastifyRequest } from "fastify";
import { DomainError } from "../../src/errors.ts";

/** Tells in constant time whether a text is the API key. */
export type ApiKeyCheck = (candidate: string) => boolean;

/**
 * Routes that need no key declare it: `config: { access: "open" }`, `"loopback"` for peers on this machine, or `"ticket"`
 * when they ask for a key or a ticket themselves.
 */
declare module "fastify" {
  interface FastifyContextConfig {
    readonly access?: "open" | "loopback" | "ticket";
  }
}

/**
 * Judges a control-plane request. The key may come as `X-API-Key` or, as older command lines send it, as
 * `Authorization: Bearer`.
 * @returns why it may not pass, `unauthenticated` in E2B's words; undefined when it may
 */
export function authenticate(request: FastifyRequest, isApiKey: ApiKeyCheck): DomainError | undefined {
  const { access } = request.routeOptions.config;
  if (access === "open" || access === "ticket") return undefined;
  if (access === "loopback" && isLoopback(request.socket.remoteAddress)) return undefined;
  return checkKey(request, isApiKey);
}

/** @returns `unauthenticated` of a request without the key. */
export function checkKey(request: FastifyRequest, isApiKey: ApiKeyCheck): DomainError | undefined {
  const key = keyOf(request);
  if (key === undefined) return refusal("There is no X-API-Key header.");
  return isApiKey(key) ? undefined : refusal("It is not this daemon's key: `npx firkin env` prints that.");
}

/** The key that a request came with, whatever it is worth. */
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
