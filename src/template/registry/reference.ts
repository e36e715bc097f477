/** References of images, as Docker reads them: `[host[:port]/]path[:tag][@sha256:…]`. Pure. */
import { DomainError } from "../../errors.ts";

export interface ImageReference {
  /** As the client wrote it. */
  readonly text: string;
  /** The name of the registry, such as `docker.io` or `127.0.0.1:5000`. */
  readonly registry: string;
  readonly path: string;
  /** The digest if there is one, else the tag. */
  readonly version:
    | { readonly kind: "tag"; readonly tag: string }
    | { readonly kind: "digest"; readonly digest: string };
}

export const dockerHub = "docker.io";
const hubNames = new Set([dockerHub, "index.docker.io", "registry-1.docker.io"]);
const hostForm =
  /^(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?$/i;
const pathForm = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
const tagForm = /^\w[\w.-]{0,127}$/;
export const digestForm = /^sha256:[0-9a-f]{64}$/;
const maxPathLength = 255;

/** @throws DomainError `invalid_argument` in E2B's words */
export function parseReference(text: string): ImageReference {
  const refuse = (why: string) => new DomainError("invalid_argument", `invalid image reference '${text}': ${why}`);
  const [named = "", digest, ...afterDigest] = text.split("@");
  if (afterDigest.length > 0) throw refuse("it has more than one digest");
  if (digest !== undefined && !digestForm.test(digest)) throw refuse("a digest is sha256: and 64 of 0-9 and a-f");
  const slash = named.indexOf("/");
  const first = slash < 0 ? "" : named.slice(0, slash);
  const hasHost = /[.:]/.test(first) || first === "localhost" || first.startsWith("[");
  if (hasHost && !hostForm.test(first)) throw refuse(`'${first}' is no name of a registry`);
  const registry = hasHost && !hubNames.has(first.toLowerCase()) ? first.toLowerCase() : dockerHub;
  const rest = hasHost ? named.slice(slash + 1) : named;
  const colon = rest.indexOf(":");
  const tag = colon < 0 ? undefined : rest.slice(colon + 1);
  const name = colon < 0 ? rest : rest.slice(0, colon);
  if (tag !== undefined && !tagForm.test(tag)) throw refuse(`'${tag}' is no tag`);
  const path = registry === dockerHub && !name.includes("/") ? `library/${name}` : name;
  if (!pathForm.test(path) || path.length > maxPathLength) {
    throw refuse("the name of an image is letters a-z, digits, '.', '_' and '-', in parts between slashes");
  }
  if (digest !== undefined) return { text, registry, path, version: { kind: "digest", digest } };
  return { text, registry, path, version: { kind: "tag", tag: tag ?? "latest" } };
}

/** Whether a registry, `host[:port]`, is on this host's loopback. */
export function isLoopback(registry: string): boolean {
  const host = registry.replace(/:[0-9]+$/, "");
  return host === "localhost" || host === "[::1]" || /^127(?:\.[0-9]{1,3}){3}$/.test(host);
}
