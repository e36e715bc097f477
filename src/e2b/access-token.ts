/**
 * The secret that opens a sandbox's data plane. Derived, not stored: the same sandbox has the same token after a pause,
 * a resume or a restart of the daemon.
 */
import { createHmac, timingSafeEqual } from "node:crypto";

/**
 * The access token of a sandbox: 64 hex digits.
 * @param machineSecret known to this machine alone; whoever has it has every token
 */
export function deriveAccessToken(machineSecret: string | Buffer, sandboxId: string): string {
  return createHmac("sha256", machineSecret).update(`sandbox-access-token:${sandboxId}`).digest("hex");
}

/**
 * The token that requests to the ports of a sandbox need which takes no public traffic: 64 hex digits. Whoever may do
 * anything in the sandbox may know it, so it is made of the access token; the way back there is none.
 */
export function deriveTrafficToken(accessToken: string): string {
  return createHmac("sha256", accessToken).update("traffic-access-token").digest("hex");
}

/** Compares secrets in a time that tells nothing but their length. */
export function secretsEqual(given: string, expected: string): boolean {
  const left = Buffer.from(given);
  const right = Buffer.from(expected);
  return left.length === right.length && timingSafeEqual(left, right);
}
