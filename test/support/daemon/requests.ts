/** Requests to a real daemon: what tests ask beside the SDK, and what the daemon logged. */
import { Sandbox } from "e2b";
import type { RealDaemon } from "./real-daemon.ts";

type Served = Pick<RealDaemon, "url" | "apiKey">;

/** Connection options of the SDK: the facts that a user exports as E2B_API_KEY, E2B_API_URL and E2B_SANDBOX_URL. */
export function connectionTo({ url, apiKey }: Served) {
  // Many requests at once take a busy host longer than the SDK waits by itself.
  return { apiKey, apiUrl: url, sandboxUrl: url, requestTimeoutMs: 180_000 };
}

export function createOn(daemon: Served, options: Parameters<typeof Sandbox.create>[1] = {}) {
  return Sandbox.create("base", { timeoutMs: 900_000, ...connectionTo(daemon), ...options });
}

/** Calls the HTTP API as curl would. */
export function call({ url, apiKey }: Served, path: string, init: RequestInit = {}): Promise<Response> {
  return fetch(`${url}${path}`, { ...init, headers: { "x-api-key": apiKey, ...init.headers } });
}

/** Posts a JSON body to the HTTP API. */
export function post(daemon: Served, path: string, body: unknown = {}): Promise<Response> {
  const headers = { "content-type": "application/json" };
  return call(daemon, path, { method: "POST", headers, body: JSON.stringify(body) });
}

export async function sandboxIds(daemon: Served): Promise<string[]> {
  const sandboxes = (await (await call(daemon, "/v2/sandboxes")).json()) as { sandboxID: string }[];
  return sandboxes.map(({ sandboxID }) => sandboxID).sort();
}

/** The value of one metric, by its name and labels; NaN when the daemon does not publish it. */
export async function metric(daemon: Served, name: string): Promise<number> {
  const text = await (await call(daemon, "/metrics")).text();
  const line = text.split("\n").find((each) => each.startsWith(`${name} `));
  return Number(line?.slice(name.length) ?? Number.NaN);
}

/** How many sandboxes hold capacity. */
export function reservations(daemon: Served): Promise<number> {
  return metric(daemon, 'firkin_capacity{budget="sandboxes",kind="active"}');
}

export type LogLine = Readonly<Record<string, unknown>> & { readonly msg: string };

/** The lines that a daemon logged so far; lines for people are left out. */
export function logLines({ log }: Pick<RealDaemon, "log">): LogLine[] {
  return log()
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as LogLine);
}
