/**
 * The options of a new sandbox: E2B's own checks in their order and words, then the refusal, by name, of options that
 * the daemon cannot honour yet. Their default values, which SDKs always send, pass.
 */
import { DomainError } from "../errors.ts";
import type { NewSandbox } from "./schemas.ts";
import { checkSandboxTexts } from "./text-limits.ts";

interface UnsupportedOption {
  readonly option: string;
  readonly isAskedFor: (body: NewSandbox) => boolean;
  readonly why: string;
}

const unsupportedOptions: readonly UnsupportedOption[] = [
  { option: "volumeMounts", isAskedFor: (body) => hasAny(body.volumeMounts), why: "there are no volumes yet" },
  { option: "iam", isAskedFor: (body) => hasAny(body.iam?.tokens), why: "there are no identity tokens yet" },
];

/**
 * Refuses the options that E2B refuses, and those that this daemon does not support.
 * @param route `v1` for a body of `/sandboxes`, where a sandbox is secured only when the client says so
 * @throws DomainError `invalid_argument` for a contradiction; `unsupported`, with the option and the reason
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
  checkSandboxTexts(body);
  for (const { option, isAskedFor, why } of unsupportedOptions) {
    if (isAskedFor(body)) throw unsupportedOption(option, why);
  }
}

/**
 * The time to live of a new sandbox, in milliseconds.
 * @throws DomainError `invalid_argument` in E2B's words
 */
export function checkNewTimeout(seconds: number, maxTimeoutMs: number): number {
  if (seconds <= 0) throw new DomainError("invalid_argument", "Timeout must be greater than 0");
  return checkTimeout(seconds, maxTimeoutMs);
}

/**
 * The time to live of a sandbox that a client connects to, in milliseconds.
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
