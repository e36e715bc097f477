/** The content of SETUP: what is new in every machine, and what the profile gives. */
import { expect, test } from "vitest";
import { placeholderId, sandboxEnvironment, setupOf, timeSetup } from "../../src/guest-machine/setup.ts";
import { ManualClock } from "../support/fakes/manual-clock.ts";

const profile = { hostname: "made", envs: { A: "1" } };

test("every setup has the current time and entropy of its own", () => {
  const clock = new ManualClock();
  const [one, other] = [setupOf(profile, clock), setupOf(profile, clock)];
  expect(one).toMatchObject({ ...profile, ...timeSetup(clock) });
  expect(one.timeNs).toBe(BigInt(clock.nowMs()) * 1_000_000n);
  expect([one.entropy?.length, other.entropy?.length]).toEqual([64, 64]);
  expect(one.entropy).not.toEqual(other.entropy);
});

test("a client's variables win over those of the sandbox", () => {
  const sandbox = { sandboxId: "s", templateId: "t", envs: { E2B_SANDBOX: "mine", OTHER: "o" } };
  expect(sandboxEnvironment(sandbox)).toEqual({
    E2B_SANDBOX: "mine",
    E2B_SANDBOX_ID: "s",
    E2B_TEMPLATE_ID: "t",
    OTHER: "o",
  });
});

test("the placeholder has the length of a sandbox's id", () => {
  expect(placeholderId).toHaveLength(21);
});
