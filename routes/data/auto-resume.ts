/**
 * Requests to a paused sandbox that wants to be resumed by them: finds the one that is meant, checks that the caller may
 * wake it, and waits until it runs. Other paused sandboxes are, to the data plane, not there.
 */
import type { IncomingMessage } from "node:http";
import type { Clock } from "../../src/clock.ts";
import { secretsEqual } from "../../src/e2b/access-token.ts";
import { fileOperationOf, matchesSignature, refuseExpired } from "../../src/e2b/signatures.ts";
import { DomainError } from "../../src/errors.ts";
import type { Runtime, SandboxView } from "../../src/runtime/runtime.ts";
import type { Session } from "../../src/runtime/sessions/session.ts";
import { type DataPlaneTarget, envdPort, signedFileUrl } from "../http/plane.ts";
import { checkTrafficToken } from "./traffic-token.ts";

export interface AutoResumeDeps {
  readonly runtime: Pick<Runtime, "resumeForTraffic" | "resumableByTraffic">;
  readonly clock: Clock;
}

/**
 * The session of the paused sandbox that a request is for, once it runs again.
 * @returns undefined when it is for none
 * @throws DomainError `permission_denied` or `unauthenticated` when the request may not wake it; what resuming throws
 */
export async function resumeForRequest(
  target: DataPlaneTarget,
  request: IncomingMessage,
  { runtime, clock }: AutoResumeDeps,
): Promise<Session | undefined> {
  // A browser asks first, and the question wakes nobody.
  if (target.by === "preflight" || request.method === "OPTIONS") return undefined;
  for (const view of runtime.resumableByTraffic()) {
    if (target.by === "id") {
      if (target.sandboxId !== view.record.id) continue;
      if (target.port === envdPort && !mayUseEnvd(request, view, clock)) throw refusal();
      checkTrafficToken(request.headers, target.port, { ...view, ingress: view.record.ingress });
    } else if (!mayUseEnvd(request, view, clock)) continue;
    return runtime.resumeForTraffic(view.record.id);
  }
  return undefined;
}

function mayUseEnvd(
  { url = "", method, headers }: IncomingMessage,
  { accessToken }: SandboxView,
  clock: Clock,
): boolean {
  const given = headers["x-access-token"];
  if (typeof given === "string") return secretsEqual(given, accessToken);
  const signed = signedFileUrl(url);
  if (!signed || !matchesSignature(signed, fileOperationOf(method), accessToken)) return false;
  refuseExpired(signed, clock.nowMs());
  return true;
}

/** E2B's own words. */
function refusal(): DomainError {
  const message = "This sandbox can't be resumed with the credentials provided. Check your access token and try again.";
  return new DomainError("permission_denied", message);
}
