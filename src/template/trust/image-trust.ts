/**
 * Giving a guest that was booted from an image what it is to trust. An image need not have a shell, sudo or a program
 * that knows its authorities, so the agent writes every file.
 */
import { isDomainError } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { certificatesIn, type GuestTrust } from "./host-trust.ts";
import { added, aptSettings, bundle, bundleVariables, sourceFolder } from "./places.ts";

/** Where Fedora and its family keep what was added. */
const anchorsFolder = "/etc/pki/ca-trust/source/anchors";
const environment = "/etc/environment";

/**
 * Adds the authorities that the image does not know, and the proxy, for every program.
 * @throws DomainError `machine_failed`, `guest_error`
 */
export async function trustInImage(agent: GuestAgent, trust: GuestTrust): Promise<void> {
  const known = await read(agent, bundle);
  const certificates = new Set(certificatesIn(known));
  const missing = trust.authorities.filter((pem) => !certificates.has(pem));
  const variables = { ...(missing.length > 0 && bundleVariables), ...trust.proxyVariables };
  if (Object.keys(variables).length === 0) return;
  if (missing.length > 0) {
    await write(agent, bundle, `${known.trimEnd()}\n${missing.join("")}`);
    await write(agent, added, missing.join(""));
    const folders = [sourceFolder, ...((await isThere(agent, anchorsFolder)) ? [anchorsFolder] : [])];
    for (const folder of folders) {
      for (const [index, pem] of missing.entries()) await write(agent, `${folder}/firkin-host-${index + 1}.crt`, pem);
    }
  }
  const lines = Object.entries(variables).map(([name, value]) => `${name}=${value}\n`);
  await write(agent, environment, (await read(agent, environment)).replace(/([^\n])$/, "$1\n") + lines.join(""));
  const apt = aptSettings(trust.proxyVariables);
  if (apt !== "" && (await isThere(agent, "/etc/apt"))) await write(agent, "/etc/apt/apt.conf.d/90firkin-proxy", apt);
}

/** A file of the guest as text; empty when it is missing. */
async function read(agent: GuestAgent, path: string): Promise<string> {
  if (!(await isThere(agent, path))) return "";
  const { bytes } = await agent.read(path, { user: "root" });
  const chunks: Uint8Array[] = [];
  for await (const chunk of bytes) chunks.push(chunk.slice());
  return Buffer.concat(chunks).toString();
}

async function isThere(agent: GuestAgent, path: string): Promise<boolean> {
  try {
    await agent.stat(path, "root");
    return true;
  } catch (error) {
    if (isDomainError(error, "not_found")) return false;
    throw error;
  }
}

async function write(agent: GuestAgent, path: string, content: string): Promise<void> {
  async function* bytes() {
    yield Buffer.from(content);
  }
  await agent.write(path, bytes(), { user: "root", mode: 0o644 });
}
