/** Attacks that root in a sandbox makes on whatever is around it. */
import { readFile } from "node:fs/promises";
import type { Sandbox } from "e2b";

export type Attack = "pry" | "memory" | "processes" | "files" | "watches" | "disk";

/** Longer than an attack has to go on. One that ends a machine by nothing is ended then. */
const attackMs = 20_000;

/** Runs an attack. @returns what it printed; or why it, or its machine, has ended */
export async function attack(sandbox: Sandbox, name: Attack): Promise<string> {
  await sandbox.files.write("/tmp/attacks.py", await readFile(new URL("attacks.py", import.meta.url), "utf8"));
  return sandbox.commands
    .run(`python3 /tmp/attacks.py ${name}`, { user: "root", timeoutMs: attackMs })
    .then(({ stdout }) => stdout, String);
}
