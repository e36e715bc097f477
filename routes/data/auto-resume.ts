/**
 * Auto-resume: a request to a paused sandbox that allows it resumes that sandbox. This file finds the sandbox, checks
 * that the caller may wake it, and waits until it runs. Every other paused sandbox does not exist for the data plane.
 */
import type { IncomingMessage } from "node:http";
import type { Clock } from "../../src/clock.ts";
import { DomainError } from "../../src/errors.ts";
import type { Runtime } from "../../src/runtime/runtime.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";
import { type DataPlaneTarget, envdPort } from "../http/plane.ts";
import { checkTrafficToken, mayWake } from "./access.ts";

export interface AutoResumeDeps {
  readonly runtime: Pick<Runtime, "traffic">;
  readonly clock: Clock;
}

/**
 * The session of the paused sandbox that a request is for, once the sandbox runs again.
 * @returns undefined when the request is for no such sandbox
 * @throws DomainError `permission_denied` or `unauthenticated` when the request may not wake the sandbox, and every
 *   error of a resume; the sandbox stays paused
 */
export async function resumeForRequest(
  target: DataPlaneTarget,
  request: IncomingMessage,
  { runtime, clock }: AutoResumeDeps,
): Promise<Session | undefined> {
  // A browser asks before it sends the request itself. Only the request wakes the sandbox.
  if (target.by === "preflight" || request.method === "OPTIONS") return undefined;
  for (const { record, accessToken } of runtime.traffic.resumableByTraffic()) {
    if (target.by === "id") {
      if (target.sandboxId !== record.id) continue;
      if (target.port === envdPort && !mayWake(request, accessToken, clock.nowMs())) throw resumeDenied();
      checkTrafficToken(request.headers, target.port, { accessToken, ingress: record.ingress });
    } else if (!mayWake(request, accessToken, clock.nowMs())) continue;
    return runtime.traffic.resumeForTraffic(record.id);
  }
  return undefined;
}

/** The refusal in E2B's own words. */
function resumeDenied(): DomainError {
  const message = "This sandbox can't be resumed with the credentials provided. Check your access token and try again.";
  return new DomainError("permission_denied", message);
}
