/**
 * The SDKs' ready helpers (`waitForPort`, `waitForURL`, `waitForProcess`) are command lines with `ss`, `curl` and `pgrep`,
 * which images need not have. Their exact texts are answered by the agent instead, which is quicker as well. Any other
 * ready command runs as it is written.
 */
import { request } from "node:http";
import { isDomainError } from "../../errors.ts";
import type { GuestAgent } from "../../guest/agent.ts";

export type ReadyHelper =
  | { readonly kind: "port"; readonly port: number }
  | { readonly kind: "url"; readonly url: URL; readonly status: number }
  | { readonly kind: "process"; readonly name: string };

const argument = String.raw`(?:'([^'\\]+)'|([\w.:/@%+=,?&~#-]+))`;
const port = /^\[ -n "\$\(ss -Htuln sport = :(\d{1,5})\)" \]$/;
const url = new RegExp(String.raw`^curl -s -o /dev/null -w "%\{http_code\}" ${argument} \| grep -q "(\d{3})"$`);
const processName = new RegExp(`^pgrep ${argument} > /dev/null$`);
/** Names in which every character stands for itself to pgrep. */
const plainName = /^[\w-]+$/;
const answerDeadlineMs = 10_000;
const listening = "0A";
const unconnected = "07";

/** What a ready command asks, if it is one of the SDKs' own; undefined: it has to be run. Pure. */
export function parseReadyHelper(command: string): ReadyHelper | undefined {
  const asked = port.exec(command)?.[1];
  if (asked !== undefined) return { kind: "port", port: Number(asked) };
  const [, quotedUrl, plainUrl, status] = url.exec(command) ?? [];
  const address = quotedUrl ?? plainUrl;
  if (address !== undefined && URL.canParse(address)) {
    const parsed = new URL(address);
    const isHere = parsed.protocol === "http:" && ["localhost", "127.0.0.1"].includes(parsed.hostname);
    return isHere ? { kind: "url", url: parsed, status: Number(status) } : undefined;
  }
  const [, quotedName, name = quotedName] = processName.exec(command) ?? [];
  return name !== undefined && plainName.test(name) ? { kind: "process", name } : undefined;
}

/** Whether the guest is ready. @throws DomainError `machine_failed`; the signal's reason */
export async function askReady(agent: GuestAgent, helper: ReadyHelper, signal: AbortSignal): Promise<boolean> {
  switch (helper.kind) {
    case "port":
      return hasPort(agent, helper.port);
    case "url":
      return (await statusOf(agent, helper.url, signal)) === helper.status;
    case "process":
      return hasProcess(agent, helper.name);
    default:
      return helper satisfies never;
  }
}

/** As `ss -tuln`: TCP that listens, UDP that is bound. */
async function hasPort(agent: GuestAgent, wanted: number): Promise<boolean> {
  const tables = { tcp: listening, tcp6: listening, udp: unconnected, udp6: unconnected };
  for (const [table, state] of Object.entries(tables)) {
    const lines = (await read(agent, `/proc/net/${table}`)).split("\n").slice(1);
    const found = lines.some((line) => {
      const [, local = "", , current] = line.trim().split(/\s+/);
      return current === state && Number.parseInt(local.split(":")[1] ?? "", 16) === wanted;
    });
    if (found) return true;
  }
  return false;
}

async function hasProcess(agent: GuestAgent, name: string): Promise<boolean> {
  for await (const { name: pid } of agent.listDirectory("/proc", 1, "root")) {
    if (/^\d+$/.test(pid) && (await read(agent, `/proc/${pid}/comm`)).includes(name)) return true;
  }
  return false;
}

/** The status that a page of the guest answers with; undefined when it does not. */
async function statusOf(agent: GuestAgent, page: URL, signal: AbortSignal): Promise<number | undefined> {
  try {
    const connection = await agent.dial(Number(page.port || 80), signal);
    return await new Promise((resolve) => {
      const asking = request(page, { createConnection: () => connection, timeout: answerDeadlineMs, signal });
      asking.on("response", (response) => {
        resolve(response.statusCode);
        asking.destroy();
      });
      asking.on("timeout", () => asking.destroy());
      asking.on("error", () => resolve(undefined));
      asking.on("close", () => resolve(undefined));
      asking.end();
    });
  } catch (error) {
    signal.throwIfAborted();
    if (isDomainError(error, "machine_failed")) throw error;
    return undefined;
  }
}

/** A file of the guest's kernel as text; empty when it is gone. */
async function read(agent: GuestAgent, path: string): Promise<string> {
  try {
    const { bytes } = await agent.read(path, { user: "root" });
    const chunks: Uint8Array[] = [];
    for await (const chunk of bytes) chunks.push(chunk.slice());
    return Buffer.concat(chunks).toString();
  } catch (error) {
    if (isDomainError(error, "not_found")) return "";
    throw error;
  }
}
