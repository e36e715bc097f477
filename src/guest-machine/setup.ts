/**
 * The content of SETUP, the operation that gives a guest its time, entropy, name, environment and marker files. Every
 * restored machine has the memory of its snapshot, so time and entropy are new in each.
 */
import { randomBytes } from "node:crypto";
import type { Clock } from "../clock.ts";
import type { GuestSetup } from "../guest/agent.ts";

/**
 * The id of a machine that no sandbox has: in a template's snapshot, and in the warm pool. It has the length of a
 * sandbox's id, so that the guest overwrites its files in place, which is less than half the work of making new ones.
 */
export const placeholderId = "nobody".padEnd(21, "0");

/** What differs from one guest to the next, besides time and entropy. */
export type GuestProfile = Pick<GuestSetup, "defaultUser" | "defaultCwd" | "files"> &
  Required<Pick<GuestSetup, "hostname" | "envs">>;

/** A complete SETUP: the current time, 64 bytes of entropy, and the profile. */
export function setupOf(profile: GuestProfile, clock: Clock): GuestSetup {
  return { ...timeSetup(clock), entropy: randomBytes(64), ...profile };
}

/** A SETUP that corrects the clock and nothing else. */
export function timeSetup(clock: Clock): GuestSetup {
  return { timeNs: BigInt(clock.nowMs()) * 1_000_000n };
}

/** The variables that every process in a machine of a template sees. */
export function templateEnvironment(templateId: string): Record<string, string> {
  return { E2B_SANDBOX: "true", E2B_TEMPLATE_ID: templateId };
}

/** The variables that every process of a sandbox sees, before its own `envs`. */
export function sandboxEnvironment(sandbox: {
  readonly sandboxId: string;
  readonly templateId: string;
  readonly envs: Readonly<Record<string, string>>;
}): Record<string, string> {
  return { ...templateEnvironment(sandbox.templateId), E2B_SANDBOX_ID: sandbox.sandboxId, ...sandbox.envs };
}

/** E2B's marker files lie in a file system in memory. */
const markerFile = (name: string, content: string) => ({ path: `/run/e2b/${name}`, content, mode: 0o644 });

/** The marker files that differ between sandboxes. */
export const sandboxFiles = (sandboxId: string) => [markerFile(".E2B_SANDBOX_ID", sandboxId)];

/** The marker files that all sandboxes of a template have in common. */
export const templateFiles = (templateId: string) => [
  markerFile(".E2B_SANDBOX", "true"),
  markerFile(".E2B_TEMPLATE_ID", templateId),
];
