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

/** Compares secrets in a time that tells nothing but their length. */
export function secretsEqual(given: string, expected: string): boolean {
  const left = Buffer.from(given);
  const right = Buffer.from(expected);
  return left.length === right.length && timingSafeEqual(left, right);
}
