/** Signed file URLs (reference 2.2): whoever holds one may read or write one path, without the access token. */
import { createHash } from "node:crypto";
import { DomainError } from "../errors.ts";
import { secretsEqual } from "./access-token.ts";

/** The query of a signed `/files` URL, decoded; `path` and `username` are "" when absent. */
export interface SignedUrl {
  /** As written, not resolved. */
  readonly path: string;
  readonly username: string;
  readonly signature: string;
  /** `signature_expiration` as written: unix seconds in a good one. */
  readonly expiration: string | undefined;
}

/** What a signature allows: `read` is GET and HEAD, `write` is POST. */
export type FileOperation = "read" | "write";

/** What a request to `/files` does with the file, by its method. */
export function fileOperationOf(method: string | undefined): FileOperation {
  return method === "GET" || method === "HEAD" ? "read" : "write";
}

/** The signature that makes `url` good for the sandbox with this access token. */
export function signatureOf(url: Omit<SignedUrl, "signature">, operation: FileOperation, accessToken: string): string {
  const parts = [url.path, operation, url.username, accessToken];
  if (url.expiration !== undefined) parts.push(url.expiration);
  const digest = createHash("sha256").update(parts.join(":")).digest("base64");
  return `v1_${digest.replace(/=+$/, "")}`;
}

/** Whether `url` was signed with this access token. Says nothing about its age: see {@link refuseExpired}. */
export function matchesSignature(url: SignedUrl, operation: FileOperation, accessToken: string): boolean {
  return secretsEqual(url.signature, signatureOf(url, operation, accessToken));
}

/**
 * Ends a signed URL's life. Ask only about one that matches, for a wrong signature is the worse news.
 * @throws DomainError `unauthenticated` in the words that clients compare (reference 2.2)
 */
export function refuseExpired(url: SignedUrl, nowMs: number): void {
  if (url.expiration === undefined) return;
  // Not a number never expires in E2B's comparison; here it is never good.
  const expiresAtMs = /^\d{1,12}$/.test(url.expiration) ? Number(url.expiration) * 1000 : 0;
  if (expiresAtMs < nowMs) throw new DomainError("unauthenticated", "signature is already expired");
}
