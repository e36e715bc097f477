/**
 * Which `Host` and `Origin` a request may carry. A web page can give its own name the address of this machine (DNS
 * rebinding) and then read our answers as its own; its requests still carry its name. Pure.
 */
import { isIP } from "node:net";

/** Labels that say whose sandbox it is: such a host is of no use without the sandbox's token. */
const sandboxHost = /^\d+-[a-z0-9]+(?:-[a-z0-9]+)?\./;

/**
 * Accepts this machine's own names, addresses (a page cannot rebind one), hosts of sandboxes and what is configured.
 * @param host the `Host` header; browsers always send one
 * @param names other names the daemon is reached by, lower case, without port
 */
export function isKnownHost(host: string | undefined, names: ReadonlySet<string>): boolean {
  if (host === undefined) return true;
  const name = host.toLowerCase().replace(/:\d*$/, "").replace(/\.$/, "");
  if (name === "localhost" || name.endsWith(".localhost") || names.has(name)) return true;
  if (name.startsWith("[")) return name.endsWith("]") && isIP(name.slice(1, -1)) === 6;
  return isIP(name) === 4 || sandboxHost.test(name);
}

/**
 * Whether a request comes from no page, or from one that this daemon served under the same name. Pages of sandboxes
 * (`<port>-<id>.localhost`) have origins of their own, so they are strangers to the control plane.
 */
export function isOwnOrigin({ origin, host }: { origin?: string | undefined; host?: string | undefined }): boolean {
  if (origin === undefined) return true;
  return /^https?:\/\//.test(origin) && origin.replace(/^https?:\/\//, "").toLowerCase() === host?.toLowerCase();
}
