/** Who may read or write a sandbox's files over HTTP: whoever has the access token, or a signature made with it. */
import type { FastifyRequest } from "fastify";
import { secretsEqual } from "../../src/e2b/access-token.ts";
import { fileOperationOf, matchesSignature, refuseExpired, type SignedUrl } from "../../src/e2b/signatures.ts";
import { DomainError } from "../../src/errors.ts";

/**
 * The checks of `/files` in E2B's order and words (reference 2.2). A token in the header decides alone.
 * @throws unauthenticated
 */
export function checkFileAccess(request: FastifyRequest, accessToken: string, nowMs: number): void {
  const given = request.headers["x-access-token"];
  if (typeof given === "string" && given !== "") {
    if (secretsEqual(given, accessToken)) return;
    throw new DomainError("unauthenticated", "access token present in header but does not match");
  }
  const url = signedUrlOf(request.query as Readonly<Record<string, unknown>>);
  if (!url) throw new DomainError("unauthenticated", "missing signature query parameter");
  if (!matchesSignature(url, fileOperationOf(request.method), accessToken)) {
    throw new DomainError("unauthenticated", "invalid signature");
  }
  refuseExpired(url, nowMs);
}

function signedUrlOf(query: Readonly<Record<string, unknown>>): SignedUrl | undefined {
  const text = (name: string): string | undefined => {
    const value = query[name];
    return typeof value === "string" ? value : undefined;
  };
  const signature = text("signature");
  if (!signature) return undefined;
  return {
    path: text("path") ?? "",
    username: text("username") ?? "",
    signature,
    expiration: text("signature_expiration"),
  };
}
