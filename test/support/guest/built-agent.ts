/** The sanitized agent: the agent as compiled for tests, with AddressSanitizer and UBSan. */
import { execFileSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { agentFolder, RawLink } from "./raw-link.ts";

export const sanitizedFolder = `${agentFolder}build/asan/`;

/** Compiles the changed sources. Test files that run at the same time wait for each other. */
export function buildSanitized(): void {
  mkdirSync(sanitizedFolder, { recursive: true });
  execFileSync("flock", [`${agentFolder}build/lock`, "make", "-C", agentFolder, "-j2", "asan"], { stdio: "pipe" });
}

/** Starts an agent and greets it. */
export async function startAgent(...options: string[]): Promise<RawLink> {
  buildSanitized();
  const link = new RawLink(`${sanitizedFolder}firkin-agent`, options);
  await link.hello();
  return link;
}

/** Starts an agent that sees `file` in the place of another file, and greets it. Only root can. */
export async function startAgentWithFile(file: string, place: string): Promise<RawLink> {
  buildSanitized();
  const mounted = 'touch "$2" && mount --bind "$1" "$2" && shift 2 && exec "$@"';
  const agent = `${sanitizedFolder}firkin-agent`;
  const link = new RawLink("unshare", ["--mount", "sh", "-c", mounted, "sh", file, place, agent]);
  await link.hello();
  return link;
}
