/** What tests ask a daemon of their own, beside the SDK. */
import { Sandbox } from "e2b";
import type { RealDaemon } from "./real-daemon.ts";

export function connectionTo({ url, apiKey }: Pick<RealDaemon, "url" | "apiKey">) {
  // Many requests at once take a busy host longer than the SDK waits by itself.
  return { apiKey, apiUrl: url, sandboxUrl: url, requestTimeoutMs: 180_000 };
}

export function createOn(daemon: RealDaemon, options: Parameters<typeof Sandbox.create>[1] = {}) {
  return Sandbox.create("base", { timeoutMs: 900_000, ...connectionTo(daemon), ...options });
}

/** Calls the HTTP API as curl would. */
export function call({ url, apiKey }: Pick<RealDaemon, "url" | "apiKey">, path: string, init: RequestInit = {}) {
  return fetch(`${url}${path}`, { ...init, headers: { "x-api-key": apiKey, ...init.headers } });
}

export async function sandboxIds(daemon: Pick<RealDaemon, "url" | "apiKey">): Promise<string[]> {
  const sandboxes = (await (await call(daemon, "/v2/sandboxes")).json()) as { sandboxID: string }[];
  return sandboxes.map(({ sandboxID }) => sandboxID).sort();
}

/** How many sandboxes hold capacity. */
export async function reservations(daemon: Pick<RealDaemon, "url" | "apiKey">): Promise<number> {
  const text = await (await call(daemon, "/metrics")).text();
  return Number(/firkin_capacity\{budget="sandboxes",kind="active"\} (\d+)/.exec(text)?.[1]);
}

export type LogLine = Readonly<Record<string, unknown>> & { readonly msg: string };

/** What a daemon logged so far; lines for people are left out. */
export function logLines({ log }: Pick<RealDaemon, "log">): LogLine[] {
  return log()
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as LogLine);
}
