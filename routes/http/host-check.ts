/**
 * The host check decides which `Host` and `Origin` a request may carry. A web page can give its own name the address
 * of this machine (DNS rebinding) and then read the daemon's answers as its own, but its requests still carry its
 * name. Pure.
 */
import { isIP } from "node:net";
import { parseSandboxHost } from "./sandbox-host.ts";

/**
 * The names below `domain` by which clients reach the daemon, besides localhost and addresses. Clients that know the
 * domain as one of E2B's own call `sandbox.<domain>`.
 * @param domain lower case, without port
 */
export function ownHostNames(domain: string): ReadonlySet<string> {
  return new Set([domain, `api.${domain}`, `sandbox.${domain}`]);
}

/**
 * Accepts this machine's own names, addresses (a page cannot rebind one), hosts of sandboxes and `names`. A sandbox's
 * host is accepted below any domain, because its requests belong to the data plane, which wants the sandbox's token.
 * @param host the `Host` header; browsers always send one
 * @param names other names of the daemon, lower case, without port
 */
export function isKnownHost(host: string | undefined, names: ReadonlySet<string>): boolean {
  if (host === undefined) return true;
  const name = host.toLowerCase().replace(/:\d*$/, "").replace(/\.$/, "");
  if (name === "localhost" || name.endsWith(".localhost") || names.has(name)) return true;
  if (name.startsWith("[")) return name.endsWith("]") && isIP(name.slice(1, -1)) === 6;
  return isIP(name) === 4 || parseSandboxHost(name)?.sandboxId !== undefined;
}

/**
 * Whether a request comes from no page, or from a page that this daemon served under the same name. Pages of sandboxes
 * (`<port>-<id>.localhost`) have origins of their own, so they are strangers to the control plane.
 */
export function isOwnOrigin({ origin, host }: { origin?: string | undefined; host?: string | undefined }): boolean {
  if (origin === undefined) return true;
  return /^https?:\/\//.test(origin) && origin.replace(/^https?:\/\//, "").toLowerCase() === host?.toLowerCase();
}
