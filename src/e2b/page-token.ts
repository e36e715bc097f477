/** The page token says where a listing goes on. It is opaque to clients and has E2B's own form inside. */
import { DomainError } from "../errors.ts";

/** The last row of a page. */
export interface PagePosition {
  /** Milliseconds since the epoch. */
  readonly startedAtMs: number;
  readonly id: string;
}

const form = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z)__([a-z0-9-]{1,64})(__asc)?$/;

/** base64url of `<RFC 3339 time>__<id>`, with `__asc` when the listing goes up. */
export function encodePageToken({ startedAtMs, id }: PagePosition, order: "asc" | "desc"): string {
  const suffix = order === "asc" ? "__asc" : "";
  return Buffer.from(`${new Date(startedAtMs).toISOString()}__${id}${suffix}`).toString("base64url");
}

/** @throws DomainError `invalid_argument` when the token is not one of these, or is of a listing in the other order */
export function decodePageToken(token: string, order: "asc" | "desc"): PagePosition {
  const [, time = "", id = "", ascending] = form.exec(Buffer.from(token, "base64url").toString()) ?? [];
  const startedAtMs = Date.parse(time);
  if (Number.isNaN(startedAtMs) || (ascending === undefined) !== (order === "desc")) {
    throw new DomainError("invalid_argument", "Invalid next token");
  }
  return { startedAtMs, id };
}
