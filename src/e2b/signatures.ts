/**
 * Signed file URLs (docs/compatibility.md#files): a client that holds one may read or write one path without the access
 * token.
 */
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

/**
 * The signed URL in a query; undefined when the query has no signature.
 * @param parameterOf the decoded value of a parameter, or nothing
 */
export function readSignedUrl(parameterOf: (parameter: string) => string | null | undefined): SignedUrl | undefined {
  const signature = parameterOf("signature");
  if (!signature) return undefined;
  return {
    path: parameterOf("path") ?? "",
    username: parameterOf("username") ?? "",
    signature,
    expiration: parameterOf("signature_expiration") ?? undefined,
  };
}

/** The signed URL that a request line has; undefined when `url` is not a signed URL of `/files`. */
export function signedFileUrl(url: string): SignedUrl | undefined {
  if (!url.startsWith("/files?")) return undefined;
  const query = new URLSearchParams(url.slice("/files?".length));
  return readSignedUrl((parameter) => query.get(parameter));
}

/** The operation that a signature allows: `read` is GET and HEAD, `write` is POST. */
export type FileOperation = "read" | "write";

/** The operation of a request to `/files`, by its method. */
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

/** Whether `url` was signed with this access token. Its age is not looked at: see {@link refuseExpired}. */
export function matchesSignature(url: SignedUrl, operation: FileOperation, accessToken: string): boolean {
  return secretsEqual(url.signature, signatureOf(url, operation, accessToken));
}

/**
 * Refuses a signed URL after its time. Callers check the signature first, because a wrong signature is the error that
 * E2B reports first.
 * @throws DomainError `unauthenticated` in the words that clients compare
 */
export function refuseExpired(url: SignedUrl, nowMs: number): void {
  if (url.expiration === undefined) return;
  // In E2B's comparison a text that is no number never expires. Here such a URL is never good.
  const expiresAtMs = /^\d{1,12}$/.test(url.expiration) ? Number(url.expiration) * 1000 : 0;
  if (expiresAtMs < nowMs) throw new DomainError("unauthenticated", "signature is already expired");
}
