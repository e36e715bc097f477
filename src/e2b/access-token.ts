/**
 * The access token opens a sandbox's data plane. The ledger keeps it, so a sandbox has the same token after a pause, a
 * resume or a restart of the daemon.
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";

/** The access token of a new sandbox: 64 random hex digits. */
export function newAccessToken(): string {
  return randomBytes(32).toString("hex");
}

/**
 * The access token of a sandbox that an earlier version made: 64 hex digits.
 * @param machineSecret known to this machine alone, because it gives every token
 */
export function deriveAccessToken(machineSecret: string | Buffer, sandboxId: string): string {
  return createHmac("sha256", machineSecret).update(`sandbox-access-token:${sandboxId}`).digest("hex");
}

/**
 * The traffic token, which requests to the ports of a sandbox without public traffic need: 64 hex digits. It is made
 * from the access token, because a client with that may do everything in the sandbox. It does not give the access
 * token away.
 */
export function deriveTrafficToken(accessToken: string): string {
  return createHmac("sha256", accessToken).update("traffic-access-token").digest("hex");
}

/** Compares secrets in a time that tells only their length. */
export function secretsEqual(given: string, expected: string): boolean {
  const left = Buffer.from(given);
  const right = Buffer.from(expected);
  return left.length === right.length && timingSafeEqual(left, right);
}
