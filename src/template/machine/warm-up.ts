/**
 * What a template runs before its snapshot. Whatever was touched then is in the page cache of every sandbox restored
 * from it: python's first start drops from 1.4 s to 0.4 s (design section 4).
 */
import type { Clock } from "../../clock.ts";
import { DomainError } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";
import { placeholderId, sandboxFiles, templateFiles } from "../../guest-machine/setup.ts";

const commands: readonly string[] = [
  "true; ls -la / /home/user >/dev/null; cat /etc/os-release >/dev/null; ps aux >/dev/null; id; date; uname -a; mkdir -p /tmp/w; rm -r /tmp/w",
  "python3 -c 'import json, os, re, subprocess, urllib.request, asyncio; print(json.dumps({}))'",
  "python --version; pip --version",
  "node -e 'console.log(JSON.stringify(process.versions))'",
  "git --version; git init -q /tmp/w && rm -r /tmp/w; curl --version",
  "sudo -n true; ip address; which bash; grep -r x /etc/hostname; sed s/a/b/ /etc/hostname; find /home -name x; sort /etc/passwd; head -1 /etc/passwd | cut -c1-3 | tr a b",
];

/** Runs every warm-up command as the default user, as an SDK would (a login shell). @throws machine_failed naming the command. */
export async function warmUp(agent: GuestAgent): Promise<void> {
  for (const command of commands) await runCommand(agent, command);
  // Once more the first one: the path every command takes is then the last thing touched.
  await runCommand(agent, "true");
}

/** For how long a guest has nothing to do before its snapshot. */
const restMs = 1_000;

/**
 * Makes the guest nobody's, has it write its files to its disk and do what its kernel put off: freeing what ended
 * processes had, timers of its last writes. Left in the snapshot, every machine of it would do all that before it answers.
 * @throws the signal's reason
 */
export async function settle(agent: GuestAgent, templateId: string, clock: Clock, signal: AbortSignal): Promise<void> {
  await agent.setup({ hostname: placeholderId, files: [...sandboxFiles(placeholderId), ...templateFiles(templateId)] });
  await agent.sync();
  await clock.sleep(restMs, signal);
}

/** Runs one command as the default user, as an SDK would. @throws machine_failed with the end of its output. */
export async function runCommand(agent: GuestAgent, command: string): Promise<void> {
  const process = await agent.exec({ command: "/bin/bash", args: ["-l", "-c", command], envs: {}, stdin: false });
  const tail: Uint8Array[] = [];
  for await (const { bytes } of process.output) {
    tail.push(bytes.slice());
    if (tail.length > 16) tail.shift();
  }
  const end = await process.end;
  if (end.exitCode === 0) return;
  throw new DomainError(
    "machine_failed",
    `a warm-up command failed with ${end.exitCode}: ${command}\n${Buffer.concat(tail).toString().slice(-2000)}`,
  );
}
