/** A hostile sandbox: root in the guest has taken the link to the host away from the agent, and floods it. */
import { readFileSync } from "node:fs";
import type { Sandbox } from "e2b";
import { expect } from "vitest";

const program = readFileSync(new URL("hostile_agent.py", import.meta.url), "utf8");

/** See `hostile_agent.py`. */
export type HostileMode = "empty" | "tiny" | "window" | "list";

/** Turns a sandbox hostile. Resolves when its agent is stopped, and the program in its place answers the host. */
export async function turnHostile(sandbox: Sandbox, mode: HostileMode): Promise<void> {
  await sandbox.files.write("/tmp/hostile_agent.py", program);
  const handle = await sandbox.commands.run(`python3 /tmp/hostile_agent.py ${mode}`, {
    background: true,
    user: "root",
    timeoutMs: 0,
  });
  await handle.disconnect();
  // Only the agent knows how to look at a file.
  const looked = () => sandbox.files.exists("/").then(String, (error: Error) => error.message);
  await expect.poll(looked, { timeout: 120_000 }).toContain("answered unsupported");
}

/** Has the guest flood the stream of a command. The client leaves at once when it is not to stay. */
export async function flood(sandbox: Sandbox, { stay }: { stay: boolean }): Promise<void> {
  const handle = await sandbox.commands.run("flood", { background: true, timeoutMs: 0 });
  if (!stay) return void (await handle.disconnect());
  // The command ends with its link or its sandbox, and never well.
  handle.wait().catch(() => {});
}
