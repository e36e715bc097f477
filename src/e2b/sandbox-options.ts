/**
 * What a client may ask of a new sandbox: the order and the words of E2B's own checks, then the options that nothing
 * here can honour yet. Those are refused by name; their default values, which SDKs always send, pass.
 */
import { DomainError } from "../errors.ts";
import type { NewSandbox } from "./schemas.ts";

interface UnsupportedOption {
  readonly option: string;
  readonly isAskedFor: (body: NewSandbox) => boolean;
  readonly why: string;
}

const unsupportedOptions: readonly UnsupportedOption[] = [
  { option: "volumeMounts", isAskedFor: (body) => hasAny(body.volumeMounts), why: "there are no volumes yet" },
  { option: "mcp", isAskedFor: (body) => hasAny(body.mcp), why: "there is no MCP gateway yet" },
  { option: "iam", isAskedFor: (body) => hasAny(body.iam?.tokens), why: "there are no identity tokens yet" },
];

/**
 * Refuses what E2B refuses, and what this daemon cannot do yet.
 * @param route whether the body came to `/sandboxes`, where a sandbox is secured only when the client says so
 * @throws DomainError `invalid_argument` for a contradiction, `unsupported` naming the option and why
 */
export function checkSandboxOptions(body: NewSandbox, route: "v1" | "v2"): void {
  if (body.autoPauseMemory === false) {
    if (body.autoResume?.enabled) throw contradiction("autoPauseMemory: false cannot be combined with autoResume");
    if (!body.autoPause) throw contradiction("autoPauseMemory: false needs autoPause: true");
  }
  if (route === "v1" && body.network?.allowPublicTraffic === false && body.secure !== true) {
    throw contradiction("network.allowPublicTraffic: false needs secure: true");
  }
  if (hasAny(body.network?.httpsPorts)) {
    const message =
      "The option network.httpsPorts is not supported: services in a sandbox are spoken to in plain HTTP.";
    throw new DomainError("invalid_argument", message, { option: "network.httpsPorts" });
  }
  for (const { option, isAskedFor, why } of unsupportedOptions) {
    if (isAskedFor(body)) throw unsupportedOption(option, why);
  }
}

/**
 * The time to live of a new or connected sandbox, in milliseconds.
 * @throws DomainError `invalid_argument` in E2B's words
 */
export function checkTimeout(seconds: number, maxTimeoutMs: number): number {
  const timeoutMs = seconds * 1000;
  if (timeoutMs <= maxTimeoutMs) return timeoutMs;
  throw new DomainError("invalid_argument", `Timeout cannot be greater than ${maxTimeoutMs / 3_600_000} hours`);
}

function hasAny(value: readonly unknown[] | Readonly<Record<string, unknown>> | null | undefined): boolean {
  return value != null && Object.keys(value).length > 0;
}

function contradiction(message: string): DomainError {
  return new DomainError("invalid_argument", message);
}

function unsupportedOption(option: string, why: string): DomainError {
  return new DomainError("unsupported", `The option ${option} is not supported: ${why}.`, { option });
}
