/**
 * Faults: the daemon, and then a machine, is killed at every lifecycle step. Afterwards the ledger and the host agree,
 * nothing is left over, and every sandbox works, with its memory, or says why not. The test writes the fault table.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type LifecycleStep, lifecycleSteps } from "../../src/lifecycle-steps.ts";
import { missingForRealMachines } from "../support/daemon/real-daemon.ts";
import { cleanUp, familyOf, operations } from "../support/faults/operations.ts";
import { afterDaemonDeath, afterMachineDeath } from "../support/faults/outcomes.ts";
import { faultTable, faultTablePath } from "../support/faults/table.ts";
import { FaultWorld } from "../support/faults/world.ts";

describe.skipIf(missingForRealMachines())("faults", () => {
  const seen = { daemon: new Map<LifecycleStep, string>(), machine: new Map<LifecycleStep, string>() };
  let world: FaultWorld;

  beforeAll(async () => {
    world = await FaultWorld.open();
  });
  afterAll(async () => {
    await world?.[Symbol.asyncDispose]();
    await mkdir(dirname(faultTablePath), { recursive: true });
    await writeFile(faultTablePath, faultTable(seen.daemon, seen.machine));
  });

  test.each(lifecycleSteps)("the daemon dies at %s", async (step) => {
    const { pool, prepare, act, outcome } = operations[familyOf(step)];
    await world.needs(pool);
    await prepare(world);
    await world.home.orderFault(step, "SIGKILL");
    await act(world);
    await world.restartAfterDeath(pool);
    expect(await world.leftovers()).toEqual([]);
    seen.daemon.set(step, await outcome(world));
    expect(seen.daemon.get(step)).toBe(afterDaemonDeath[step]);
    await world.bystanderCounts();
    await cleanUp(world);
    expect(await world.leftovers()).toEqual([]);
  });

  const withMachine = lifecycleSteps.filter((step) => afterMachineDeath[step] !== null);

  test.each(withMachine)("a machine dies at %s", async (step) => {
    const { pool, prepare, act, outcome } = operations[familyOf(step)];
    await world.needs(pool);
    await prepare(world);
    await world.home.orderFault(step, "SIGSTOP");
    const acting = act(world);
    await world.isStopped();
    await world.killNewestEngine();
    process.kill(world.daemon.pid, "SIGCONT");
    const answer = await acting;
    expect(await world.leftovers()).toEqual([]);
    const possible = [afterMachineDeath[step]].flat();
    expect(possible).toContain(`${answer?.status}; ${await outcome(world)}`);
    seen.machine.set(step, possible.join(" or "));
    await world.bystanderCounts();
    await cleanUp(world);
    expect(await world.leftovers()).toEqual([]);
  });

  test("a sandbox that was paused all the time still has its memory", () => world.sleeperCounts());
});
