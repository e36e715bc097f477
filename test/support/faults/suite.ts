/**
 * The fault suite: the daemon, and then a machine, is killed at lifecycle steps. Afterwards the ledger and the host agree,
 * nothing is left over, and every sandbox works, with its memory, or says why not. The suite writes the fault table.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type LifecycleStep, lifecycleSteps } from "../../../src/lifecycle-steps.ts";
import type { TestedEngine } from "../daemon/engine-processes.ts";
import { untilStopped } from "../daemon/stopped-daemon.ts";
import { titleOf } from "../skipped-title.ts";
import { cleanUp, familyOf, operations } from "./operations.ts";
import { afterDaemonDeath, afterMachineDeath } from "./outcomes.ts";
import { faultTable, faultTablePath } from "./table.ts";
import { FaultWorld, stepDeadlineMs } from "./world.ts";

export interface FaultSuite {
  readonly engine: TestedEngine;
  /** Why the suite cannot be run here, or undefined. */
  readonly missing: string | undefined;
  /** Default: all. */
  readonly steps?: readonly LifecycleStep[];
}

export function faultSuite({ engine, missing, steps = lifecycleSteps }: FaultSuite): void {
  describe.skipIf(missing)(titleOf(`faults on ${engine}`, missing), () => {
    const seen = { daemon: new Map<LifecycleStep, string>(), machine: new Map<LifecycleStep, string>() };
    let world: FaultWorld;

    beforeAll(async () => {
      world = await FaultWorld.open(engine);
    });
    afterAll(async () => {
      if (!world) return;
      try {
        const { url, apiKey } = world.daemon;
        const benchmarks = await fetch(`${url}/benchmarks`, { headers: { "x-api-key": apiKey } });
        const { engineVersion } = (await benchmarks.json()) as { engineVersion: string };
        const path = faultTablePath(engine);
        await mkdir(dirname(path), { recursive: true });
        const seenOn = `${engine} ${engineVersion} (${new Date().toISOString().slice(0, 10)})`;
        await writeFile(path, `${seenOn}\n${faultTable(seen.daemon, seen.machine)}`);
      } finally {
        await world[Symbol.asyncDispose]();
      }
    });

    test.each(steps)("the daemon dies at %s", async (step) => {
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

    const withMachine = steps.filter((step) => afterMachineDeath[step] !== null);

    test.each(withMachine)("a machine dies at %s", async (step) => {
      const { pool, prepare, act, outcome } = operations[familyOf(step)];
      await world.needs(pool);
      await prepare(world);
      await world.home.orderFault(step, "SIGSTOP");
      const acting = act(world);
      await untilStopped(world.daemon.pid, stepDeadlineMs);
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
}
