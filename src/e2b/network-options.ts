/**
 * The network options of a sandbox: E2B's own checks in its words, then the refusal of rules that the daemon cannot
 * enforce yet. The result is a switch between the whole internet and none of it. Pure.
 */
import { isIPv4 } from "node:net";
import { DomainError } from "../errors.ts";
import type { SandboxIngress } from "../types.ts";
import type { NewSandbox, SandboxNetworkUpdateConfig } from "./schemas.ts";

/** E2B's `ALL_TRAFFIC`. */
export const allTraffic = "0.0.0.0/0";

type EgressOptions = Omit<NonNullable<SandboxNetworkUpdateConfig>, "allow_internet_access">;
type IngressOptions = Pick<NonNullable<NewSandbox["network"]>, "allowPublicTraffic" | "maskRequestHost">;

/** The text that stands for the port of a request. */
const portPlaceholder = `\${PORT}`;
/** E2B's sentence, as clients know it. */
const domainsNeedDenial =
  "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out to block all other traffic.";

/**
 * Whether the sandbox reaches the internet. It does not when the client switches it off or denies every address.
 * @throws DomainError `invalid_argument` for options that E2B refuses, and for those that the daemon cannot enforce
 */
export function readInternetAccess(
  allowInternetAccess: boolean | null | undefined,
  options: EgressOptions | null | undefined,
): boolean {
  const { allowOut, denyOut, rules, egressProxy } = options ?? {};
  const denied = (denyOut ?? []).map(readRange);
  if ((allowOut ?? []).some((entry) => !isAddressOrRange(entry)) && !denyOut?.includes(allTraffic)) {
    throw new DomainError("invalid_argument", domainsNeedDenial);
  }
  if (allowOut?.length) throw notEnforced("network.allowOut", "destinations cannot be allowed one by one");
  if (rules && Object.keys(rules).length > 0) throw notEnforced("network.rules", "requests are not rewritten");
  if (egressProxy) throw notEnforced("network.egressProxy", "there is no way through a proxy");
  const deniesAll = coverEverything(denied);
  if (denied.length > 0 && !deniesAll) {
    throw notEnforced("network.denyOut", `only all destinations at once can be denied: ["${allTraffic}"]`);
  }
  return allowInternetAccess !== false && !deniesAll;
}

/**
 * The way of requests to the sandbox's ports.
 * @throws DomainError `invalid_argument`
 */
export function readIngress(options: IngressOptions | null | undefined): SandboxIngress {
  const maskRequestHost = options?.maskRequestHost || null;
  if (maskRequestHost !== null && !isHost(maskedHost(maskRequestHost, 65535))) {
    const form = `an ASCII host name or address, maybe with a port; ${portPlaceholder} stands for the port asked for`;
    const option = `network.maskRequestHost ${JSON.stringify(maskRequestHost)}`;
    throw new DomainError("invalid_argument", `${option} is not ${form}`);
  }
  return { allowPublicTraffic: options?.allowPublicTraffic ?? true, maskRequestHost };
}

/** The Host that a service on `port` sees. */
export function maskedHost(maskRequestHost: string, port: number): string {
  return maskRequestHost.replaceAll(portPlaceholder, String(port));
}

function isHost(host: string): boolean {
  const parts = /^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::(\d{1,5}))?$/.exec(
    host,
  );
  return parts !== null && Number(parts[1] ?? 1) <= 65535;
}

/** First and last address, as numbers. */
type Range = readonly [first: number, last: number];

const addressCount = 2 ** 32;

function readRange(entry: string): Range {
  const range = parseRange(entry);
  if (range) return range;
  throw new DomainError("invalid_argument", `invalid denied CIDR ${entry}`);
}

function isAddressOrRange(entry: string): boolean {
  return parseRange(entry) !== undefined;
}

/** IPv4 only, as in E2B, because a sandbox has no other way out. */
function parseRange(entry: string): Range | undefined {
  const [address = "", prefixText = "32", ...rest] = entry.split("/");
  const prefix = /^\d{1,2}$/.test(prefixText) ? Number(prefixText) : 33;
  if (rest.length > 0 || prefix > 32 || !isIPv4(address)) return undefined;
  const size = addressCount / 2 ** prefix;
  const number = address.split(".").reduce((sum, byte) => sum * 256 + Number(byte), 0);
  const first = number - (number % size);
  return [first, first + size - 1];
}

function coverEverything(ranges: readonly Range[]): boolean {
  let next = 0;
  for (const [first, last] of [...ranges].sort(([one], [other]) => one - other)) {
    if (first > next) return false;
    next = Math.max(next, last + 1);
  }
  return next === addressCount;
}

function notEnforced(option: string, why: string): DomainError {
  return new DomainError("invalid_argument", `The option ${option} is not supported: ${why}.`, { option });
}
