/** Giving a booted guest what it is to trust, before anything else is started in it. */
import type { GuestAgent } from "../../guest/agent.ts";
import { certificatesIn, type GuestTrust } from "./host-trust.ts";
import { added, aptSettings, bundle, bundleVariables, sourceFolder } from "./places.ts";

/** How many files one request to the agent places. */
const batchSize = 50;

/**
 * Adds the authorities that the guest does not know, and the proxy, for every program: in the system's bundle, in
 * `/etc/environment`, which commands and logins get, and for apt.
 * @param run runs a shell command as a user who may use sudo, and throws when that fails
 * @throws DomainError `machine_failed`, `guest_error` and what `run` throws
 */
export async function trustInGuest(
  agent: GuestAgent,
  trust: GuestTrust,
  run: (command: string) => Promise<void>,
): Promise<void> {
  const missing = await missingAuthorities(agent, trust.authorities);
  const variables = { ...(missing.length > 0 && bundleVariables), ...trust.proxyVariables };
  if (Object.keys(variables).length === 0) return;
  const text = (path: string, content: string) => ({ path, content, mode: 0o644 });
  const lines = Object.entries(variables).map(([name, value]) => `${name}=${value}\n`);
  const files = [
    ...missing.map((pem, index) => text(`${sourceFolder}/firkin-host-${index + 1}.crt`, pem)),
    text(added, missing.join("")),
    text("/etc/firkin-environment", lines.join("")),
    text("/etc/apt/apt.conf.d/90firkin-proxy", aptSettings(trust.proxyVariables)),
  ];
  for (let at = 0; at < files.length; at += batchSize) await agent.setup({ files: files.slice(at, at + batchSize) });
  const merge = "cat /etc/firkin-environment >>/etc/environment && rm /etc/firkin-environment";
  await run(`sudo sh -c 'set -e; update-ca-certificates >/dev/null; ${merge}'`);
}

/** The authorities that are not in the guest's bundle. */
async function missingAuthorities(agent: GuestAgent, authorities: readonly string[]): Promise<string[]> {
  if (authorities.length === 0) return [];
  const { bytes } = await agent.read(bundle, { user: "root" });
  const chunks: Uint8Array[] = [];
  for await (const chunk of bytes) chunks.push(chunk.slice());
  const known = new Set(certificatesIn(Buffer.concat(chunks).toString()));
  return authorities.filter((pem) => !known.has(pem));
}
