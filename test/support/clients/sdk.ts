/** The two client generations that are in the field (reference section 0), pointed at the shared daemon. */
import * as current from "e2b";
import * as v1Routes from "e2b-v1-routes";
import { inject } from "vitest";

/** What the tests use is the same in both. */
export type Sdk = typeof current;
export type Sandbox = InstanceType<Sdk["Sandbox"]>;

export const generations: readonly (readonly [string, Sdk])[] = [
  ["e2b 2.51 (v2 routes)", current],
  ["e2b 2.45 (v1 routes)", v1Routes as unknown as Sdk],
];

export const { Sandbox } = current;

const daemon = inject("daemon");

/** A reason to skip every test that needs a real VM, or false. */
export const skipReason = "missing" in daemon ? daemon.missing : false;

/** The running daemon. */
export function sharedDaemon() {
  if ("missing" in daemon) throw new Error(daemon.missing);
  return daemon;
}

/** Twenty creates at once take a busy host longer than the SDK waits by itself. */
const requestTimeoutMs = 180_000;

/** Connection options: what a user exports as E2B_API_KEY, E2B_API_URL and E2B_SANDBOX_URL. */
export function connection() {
  const { url, apiKey } = sharedDaemon();
  return { apiKey, apiUrl: url, sandboxUrl: url, requestTimeoutMs };
}

/** Creates a sandbox and kills it at the end of the `await using` block. */
export async function createSandbox(
  options: Parameters<Sdk["Sandbox"]["create"]>[1] = {},
  sdk: Sdk = current,
): Promise<{ sandbox: Sandbox } & AsyncDisposable> {
  const sandbox = await sdk.Sandbox.create("base", { timeoutMs: 600_000, ...connection(), ...options });
  return {
    sandbox,
    async [Symbol.asyncDispose]() {
      await sandbox.kill();
    },
  };
}

/** Calls the HTTP API as curl would. */
export function api(path: string, init: RequestInit = {}): Promise<Response> {
  const { url, apiKey } = sharedDaemon();
  return fetch(`${url}${path}`, { ...init, headers: { "x-api-key": apiKey, ...init.headers } });
}
