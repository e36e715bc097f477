/**
 * The warm-up of a template before its snapshot. Files that a command reads then are in the page cache of every sandbox
 * that is restored from it: python's first start drops from 1.4 s to 0.4 s.
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

/** Runs every warm-up command. @throws DomainError `machine_failed` naming the command */
export async function warmUp(agent: GuestAgent): Promise<void> {
  for (const command of commands) await runCommand(agent, command);
  await openTerminal(agent);
  // The path that every command takes is then the last that was touched.
  await runCommand(agent, "true");
}

/** Opens a terminal as an SDK does, waits for its prompt, and ends its shell. */
async function openTerminal(agent: GuestAgent): Promise<void> {
  const process = await agent.exec({
    command: "/bin/bash",
    args: ["-i", "-l"],
    envs: { TERM: "xterm-256color" },
    stdin: true,
    terminal: { columns: 80, rows: 24 },
  });
  let prompted = false;
  for await (const _ of process.output) {
    if (!prompted) await process.write(Buffer.from("ls\nexit\n"));
    prompted = true;
  }
  const { exitCode } = await process.end;
  if (exitCode !== 0) throw new DomainError("machine_failed", `the shell of a terminal ended with ${exitCode}`);
}

/** How long a guest is idle before its snapshot, if its engine does not say. */
const defaultRestMs = 1_000;

export interface SettleOptions {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** See `EngineInfo`. */
  readonly restMs?: number | undefined;
}

/**
 * Gives the guest the placeholder identity, lets it write its files to its disk and gives its kernel time for deferred
 * work: freeing the memory of ended processes, timers of the last writes. Otherwise every machine of the snapshot would
 * do that work before it answers.
 * @throws DomainError `machine_failed` when the link breaks; the signal's reason
 */
export async function settle(
  agent: GuestAgent,
  templateId: string,
  { clock, signal, restMs = defaultRestMs }: SettleOptions,
): Promise<void> {
  await agent.setup({ hostname: placeholderId, files: [...sandboxFiles(placeholderId), ...templateFiles(templateId)] });
  await agent.sync();
  await clock.sleep(restMs, signal);
}

/**
 * Runs one command as the default user in a login shell, as an SDK does.
 * @throws DomainError `machine_failed` with the end of its output
 */
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
