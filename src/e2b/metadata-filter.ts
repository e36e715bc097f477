/**
 * The metadata filter of listings: a query inside a query, escaped three times on the wire
 * (docs/compatibility.md#lifecycle).
 */
import { DomainError } from "../errors.ts";

/**
 * The pairs that a sandbox's metadata must have.
 * @param text the `metadata` parameter after ordinary query decoding, e.g. `k%25201=v%25261` for `k 1` = `v&1`
 * @throws DomainError `invalid_argument` when the text is no list of pairs
 */
export function parseMetadataFilter(text: string): Record<string, string> {
  if (text === "") return {};
  const pairs = decodeOnce(text)
    .split("&")
    .map((pair): [string, string] => {
      const [key, value, ...rest] = pair.split("=");
      if (key === undefined || value === undefined || rest.length > 0) throw refusal(`'${pair}' is not key=value`);
      return [decodeOnce(key), decodeOnce(value)];
    });
  return Object.fromEntries(pairs);
}

/** Removes one layer of query escaping, in which `+` is a space too. */
function decodeOnce(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll("+", " "));
  } catch (error) {
    throw refusal((error as URIError).message, error);
  }
}

function refusal(detail: string, cause?: unknown): DomainError {
  return new DomainError("invalid_argument", `Invalid metadata filter: ${detail}`, {}, { cause });
}
