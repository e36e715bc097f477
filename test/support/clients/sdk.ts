/** The JavaScript SDKs: the two generations of npm's `e2b` that are in use, pointed at the shared daemon. */
import * as current from "e2b";
import * as v1Routes from "e2b-v1-routes";
import { inject } from "vitest";
import { call, connectionTo } from "../daemon/requests.ts";

/** The type of a generation. All that tests use of it is the same in both. */
export type Sdk = typeof current;
export type Sandbox = InstanceType<Sdk["Sandbox"]>;

export const generations: readonly (readonly [string, Sdk])[] = [
  ["e2b 2.51 (v2 routes)", current],
  ["e2b 2.45 (v1 routes)", v1Routes as unknown as Sdk],
];

export const { Sandbox } = current;

const daemon = inject("daemon");

/** Why every test that needs a real machine is skipped, or false. */
export const skipReason = "missing" in daemon ? daemon.missing : false;

/** The shared daemon. @throws Error when real machines cannot be started here. */
export function sharedDaemon() {
  if ("missing" in daemon) throw new Error(daemon.missing);
  return daemon;
}

/** The variables that a user exports for the shared daemon: what `firkin env` prints. */
export function exportedVariables(): Record<string, string> {
  const { url, apiKey } = sharedDaemon();
  return { E2B_API_KEY: apiKey, E2B_API_URL: url, E2B_SANDBOX_URL: url };
}

/** Connection options for the shared daemon: the same facts as `exportedVariables`, for a client in this process. */
export function connection() {
  return connectionTo(sharedDaemon());
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

/** Calls the HTTP API of the shared daemon as curl would. */
export function api(path: string, init: RequestInit = {}): Promise<Response> {
  return call(sharedDaemon(), path, init);
}
