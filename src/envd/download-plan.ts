/** The download plan: the bytes of a file that answer a request, and their encoding. Pure. */
import type { FileEntry } from "../types.ts";

/** Request headers by their lower-case names. */
export type RequestHeaders = Readonly<Record<string, string | string[] | undefined>>;

export type DownloadPlan =
  | { readonly kind: "whole"; readonly encoding: "identity" | "gzip" }
  | { readonly kind: "range"; readonly offset: number; readonly length: number }
  | { readonly kind: "not_modified" }
  | { readonly kind: "precondition_failed" }
  | { readonly kind: "unsatisfiable" }
  | { readonly kind: "not_acceptable" };

const conditionalHeaders = ["range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"];

/** True when the plan depends on the file's size or time, which must be known before the first byte is read. */
export function dependsOnEntry(headers: RequestHeaders): boolean {
  return conditionalHeaders.some((name) => headers[name] !== undefined);
}

/** The plan for a request whose headers do not depend on the file. */
export function planWhole(headers: RequestHeaders): DownloadPlan {
  const encoding = negotiateEncoding(single(headers["accept-encoding"]));
  return encoding ? { kind: "whole", encoding } : { kind: "not_acceptable" };
}

/**
 * The plan for a request with a range or conditions, evaluated in the order of RFC 9110 (13.2.2). Such answers are
 * never compressed. There are no entity tags; several ranges at once are answered with the whole file.
 */
export function planConditional(
  headers: RequestHeaders,
  { sizeBytes, modifiedNs }: Pick<FileEntry, "sizeBytes" | "modifiedNs">,
): DownloadPlan {
  const modifiedS = Number(modifiedNs / 1_000_000_000n);
  const ifMatch = single(headers["if-match"]);
  const ifUnmodifiedSince = dateOf(headers["if-unmodified-since"]);
  if (
    ifMatch !== undefined ? ifMatch.trim() !== "*" : ifUnmodifiedSince !== undefined && modifiedS > ifUnmodifiedSince
  ) {
    return { kind: "precondition_failed" };
  }
  const ifNoneMatch = single(headers["if-none-match"]);
  const ifModifiedSince = dateOf(headers["if-modified-since"]);
  if (
    ifNoneMatch !== undefined
      ? ifNoneMatch.trim() === "*"
      : ifModifiedSince !== undefined && modifiedS <= ifModifiedSince
  ) {
    return { kind: "not_modified" };
  }
  const range = single(headers.range);
  const ifRange = single(headers["if-range"]);
  // Every range of an empty file is the whole file, as in other servers.
  if (sizeBytes === 0 || range === undefined || (ifRange !== undefined && dateOf(ifRange) !== modifiedS)) {
    return { kind: "whole", encoding: "identity" };
  }
  return planRange(range, sizeBytes);
}

function planRange(range: string, sizeBytes: number): DownloadPlan {
  const match = /^bytes=\s*(\d*)-(\d*)\s*$/.exec(range);
  const [, first = "", last = ""] = match ?? [];
  if (!match || (first === "" && last === "")) return { kind: "whole", encoding: "identity" };
  if (first === "") {
    const length = Math.min(Number(last), sizeBytes);
    return length === 0 ? { kind: "unsatisfiable" } : { kind: "range", offset: sizeBytes - length, length };
  }
  const offset = Number(first);
  const end = last === "" ? sizeBytes : Math.min(Number(last) + 1, sizeBytes);
  if (last !== "" && Number(last) < offset) return { kind: "whole", encoding: "identity" };
  return offset >= sizeBytes ? { kind: "unsatisfiable" } : { kind: "range", offset, length: end - offset };
}

/**
 * The encoding: gzip for a client that asks for gzip alone, as the SDKs' `gzip` option does. A client that lists every
 * coding it knows, as HTTP libraries do by default, gets the bytes as they are, because between processes of one
 * machine compression costs far more than it saves. Undefined when no encoding is acceptable.
 */
export function negotiateEncoding(acceptEncoding: string | undefined): "identity" | "gzip" | undefined {
  if (acceptEncoding === undefined || acceptEncoding.trim() === "") return "identity";
  const weights = new Map<string, number>();
  for (const item of acceptEncoding.toLowerCase().split(",")) {
    const [coding = "", ...parameters] = item.split(";").map((part) => part.trim());
    const q = parameters.find((parameter) => parameter.startsWith("q="));
    const weight = q === undefined ? 1 : Number(q.slice(2));
    if (coding) weights.set(coding, Number.isFinite(weight) ? weight : 0);
  }
  const any = weights.get("*");
  const gzip = weights.get("gzip") ?? weights.get("x-gzip") ?? any ?? 0;
  const identityAllowed = (weights.get("identity") ?? any ?? 1) > 0;
  const asksForGzipAlone = [...weights.keys()].every((coding) => coding === "gzip" || coding === "x-gzip");
  if (gzip > 0 && (asksForGzipAlone || !identityAllowed)) return "gzip";
  return identityAllowed ? "identity" : undefined;
}

function single(header: string | string[] | undefined): string | undefined {
  return Array.isArray(header) ? header.join(",") : header;
}

/** Seconds since the epoch of an HTTP date; undefined when it is absent or malformed. */
function dateOf(header: string | string[] | undefined): number | undefined {
  const ms = Date.parse(single(header) ?? "");
  return Number.isNaN(ms) ? undefined : Math.floor(ms / 1000);
}
