/** Whether a request may get to the ports of a sandbox whose client wants no public traffic. envd has its own token. */
import type { IncomingHttpHeaders } from "node:http";
import { deriveTrafficToken, secretsEqual } from "../../src/e2b/access-token.ts";
import { DomainError } from "../../src/errors.ts";
import type { SandboxIngress } from "../../src/types.ts";
import { envdPort } from "../http/plane.ts";

/** It opens the way and is of no use at its end: it is not passed on. */
export const trafficTokenHeader = "e2b-traffic-access-token";

/** @throws DomainError `permission_denied` in E2B's words */
export function checkTrafficToken(
  headers: IncomingHttpHeaders,
  port: number,
  { ingress, accessToken }: { readonly ingress: SandboxIngress; readonly accessToken: string },
): void {
  if (port === envdPort || ingress.allowPublicTraffic) return;
  const given = headers[trafficTokenHeader];
  if (typeof given === "string" && given !== "") {
    if (secretsEqual(given, deriveTrafficToken(accessToken))) return;
    throw denial(`Provided token in header '${trafficTokenHeader}' is invalid`);
  }
  throw denial(`Token header '${trafficTokenHeader}' is missing`);
}

function denial(problem: string): DomainError {
  return new DomainError("permission_denied", `Sandbox is secured with traffic access token. ${problem}`);
}
