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
