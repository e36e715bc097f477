/** The short form of `npm run soak`: a minute of mixed work at capacity, with a daemon that is killed on the way. */
import { expect, test } from "vitest";
import { soak } from "../soak/soak.ts";
import { missingForRealMachines } from "../support/daemon/real-daemon.ts";

test.skipIf(missingForRealMachines())("a minute of mixed work fails at nothing and leaves nothing", async () => {
  const result = await soak({ minutes: 1, killEveryMs: 8_000, report: () => {} });
  expect(result.unexplained).toEqual([]);
  expect(result.leftovers).toEqual([]);
  expect(result.leftFds).toBe(0);
  expect(result.leftBytes).toBe(0);
  expect(result.kills).toBeGreaterThan(0);
  const done = Object.values(result.done).reduce((sum, n) => sum + n, 0);
  expect(done).toBeGreaterThan(5);
});
