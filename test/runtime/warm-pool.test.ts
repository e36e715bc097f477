/** The warm pool over a pretended host: who gets which machine, what is made ahead, and that nothing is left of any of it. */
import { readdir } from "node:fs/promises";
import fc from "fast-check";
import { expect, test, vi } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { reserve } from "../../src/ledger/capacity.ts";
import {
  insertWarmEntry,
  listWarmEntries,
  markWarmEntryReady,
  setWarmEntryMachine,
} from "../../src/ledger/warm-entries.ts";
import { reconcile } from "../../src/runtime/restart-reconciliation.ts";
import { shape } from "../ledger/support.ts";
import { openWorld, type World } from "../support/runtime-world.ts";

const readyIds = ({ ledger }: World) => listWarmEntries(ledger, ["ready"]).map(({ id }) => id);
const hit = 'firkin_warm_pool_checkouts_total{outcome="hit"}';
const miss = 'firkin_warm_pool_checkouts_total{outcome="miss"}';

test("a create takes a warm machine, which gets its own identity, and the next round makes another", async () => {
  await using world = await openWorld();
  await world.refill();
  expect(world.held()).toEqual({ active: 0, warm: 1 });
  const [warm] = listWarmEntries(world.ledger, ["ready"]);
  const commands = world.guests.commands;
  expect(commands).toBe(1);
  const restores = world.host.calls.length;
  const { record } = await world.create();
  expect(world.host.calls.length).toBe(restores);
  expect(record.machine).toEqual(warm?.machine);
  expect(record.reservationId).toBe(warm?.reservationId);
  expect(world.guests.hostnames.at(-1)).toBe(record.id);
  expect(world.held()).toEqual({ active: 1, warm: 0 });
  await world.refill();
  expect(world.held()).toEqual({ active: 1, warm: 1 });
  expect([await world.metric(hit), await world.metric(miss)]).toEqual([1, 0]);
  await world.runtime.killSandbox(record.id);
  await world.settle();
  expect(world.held()).toEqual({ active: 0, warm: 1 });
});

test("an empty pool is a restore, and a miss", async () => {
  await using world = await openWorld();
  const { record } = await world.create();
  expect(record.machine).not.toBeNull();
  expect([await world.metric(hit), await world.metric(miss)]).toEqual([0, 1]);
});

test("a pool that is turned off makes nothing and counts nothing", async () => {
  await using world = await openWorld({ pool: { min: 3, max: 0 } });
  await world.create();
  await world.refill();
  expect(world.held()).toEqual({ active: 1, warm: 0 });
  expect([await world.metric(hit), await world.metric(miss)]).toEqual([0, 0]);
});

test("a warm machine that fails its probe is replaced, and the client sees only success", async () => {
  await using world = await openWorld();
  await world.refill();
  world.guests.refusedSetups = 1;
  const { record } = await world.create();
  expect(world.host.machines.size).toBe(1);
  expect([...world.host.machines.keys()]).toEqual([record.machine?.sessionId]);
  expect(world.held()).toEqual({ active: 1, warm: 0 });
  expect(await world.metric('firkin_warm_pool_checkouts_total{outcome="failed"}')).toBe(1);
});

test("one that cannot be ended fails the create and keeps its capacity until it is gone", async () => {
  await using world = await openWorld();
  await world.refill();
  world.guests.refusedSetups = 1;
  const failure = new DomainError("machine_failed", "it will not go");
  world.host.arrange("terminate", { error: failure }, { error: failure });
  await expect(world.create()).rejects.toBe(failure);
  expect(world.held()).toEqual({ active: 1, warm: 0 });
  await world.clock.advance(60_000);
  await world.settle();
  expect([world.held(), world.host.machines.size]).toEqual([{ active: 0, warm: 0 }, 0]);
});

test("a warm machine that dies is noticed and replaced", async () => {
  await using world = await openWorld();
  await world.refill();
  const [before] = readyIds(world);
  for (const sessionId of [...world.host.machines.keys()]) world.host.crash(sessionId);
  await world.settle();
  expect(world.held()).toEqual({ active: 0, warm: 0 });
  await world.refill();
  expect(readyIds(world)).toHaveLength(1);
  expect(readyIds(world)[0]).not.toBe(before);
});

test("the pool grows with demand up to its most, and shrinks again, oldest first", async () => {
  await using world = await openWorld({ pool: { min: 1, max: 3 } });
  for (let n = 0; n < 5; n++) await world.create();
  for (let n = 0; n < 5; n++) await world.refill();
  const grown = readyIds(world);
  expect(grown).toHaveLength(3);
  await world.clock.advance(6 * 60_000);
  await world.refill();
  expect(readyIds(world)).toEqual(grown.slice(2));
});

test("only base is kept warm without demand; another template is once it was asked for", async () => {
  await using world = await openWorld();
  await world.addTemplate("other");
  for (let n = 0; n < 3; n++) await world.refill();
  expect(listWarmEntries(world.ledger, ["ready"]).map(({ templateId }) => templateId)).toEqual(["template-base"]);
  await world.create("other");
  await world.refill();
  expect(listWarmEntries(world.ledger, ["ready"]).map(({ templateId }) => templateId)).toEqual([
    "template-base",
    "template-other",
  ]);
});

test("a round asks the ledger no more for templates that nobody asks for", async () => {
  await using world = await openWorld();
  await world.refill();
  const asked = vi.spyOn(world.ledger, "statement");
  const round = async () => {
    asked.mockClear();
    await world.refill();
    return asked.mock.calls.length;
  };
  const before = await round();
  for (let n = 0; n < 20; n++) await world.addTemplate(`other-${n}`);
  expect(await round()).toBe(before);
});

test("old machines are replaced", async () => {
  await using world = await openWorld();
  await world.refill();
  const before = readyIds(world);
  await world.clock.advance(3_600_000);
  await world.refill();
  await world.settle();
  expect(world.held()).toEqual({ active: 0, warm: 1 });
  expect(readyIds(world)).not.toEqual(before);
});

test("nothing is refilled while a create is under way, right after it, or with less than two floors of free disk", async () => {
  await using world = await openWorld();
  const tick = () => world.pool.maintain(new AbortController().signal);
  const ended = world.pool.beginCreate("template-base");
  await tick();
  ended();
  await tick();
  expect(world.held().warm).toBe(0);
  world.disk.freeBytes = 19 * 2 ** 30;
  await world.refill();
  expect(world.held().warm).toBe(0);
  world.disk.freeBytes = 21 * 2 ** 30;
  await world.refill();
  expect(world.held().warm).toBe(1);
});

test("a refill that fails leaves nothing, is reported, and is not tried again at once", async () => {
  await using world = await openWorld();
  const failure = new DomainError("machine_failed", "no memory");
  world.host.arrange("restore", { error: failure });
  await expect(world.refill()).rejects.toBe(failure);
  await world.settle();
  expect([world.held(), world.host.machines.size]).toEqual([{ active: 0, warm: 0 }, 0]);
  await world.pool.maintain(new AbortController().signal);
  expect(world.held().warm).toBe(0);
  await world.refill();
  expect(world.held().warm).toBe(1);
});

test("a stop in the middle of a refill leaves nothing", async () => {
  await using world = await openWorld();
  await world.clock.advance(1_000);
  world.host.arrange("openGuestLink", { delayMs: 10_000 });
  const stop = new AbortController();
  const round = world.pool.maintain(stop.signal);
  await expect.poll(() => world.host.calls.at(-1)).toBe("openGuestLink");
  stop.abort();
  await round;
  await world.settle();
  expect([world.held(), world.host.machines.size]).toEqual([{ active: 0, warm: 0 }, 0]);
  expect(await readdir(world.machinesFolder)).toEqual([]);
});

test("a snapshot is deleted although a machine is just being made of it ahead of demand", async () => {
  await using world = await openWorld({ pool: { min: 0, max: 1 } });
  const { runtime, host } = world;
  const { templateId } = await runtime.snapshotSandbox((await world.create()).record.id);
  await world.clock.advance(6 * 60_000);
  await runtime.killSandbox((await world.create(templateId)).record.id);
  await world.settle();
  await world.clock.advance(1_000);
  host.arrange("openGuestLink", { delayMs: 10_000 });
  const stop = new AbortController();
  const round = world.pool.maintain(stop.signal);
  await expect.poll(() => world.pool.depth().warming).toBe(1);
  await expect.poll(() => host.calls.at(-1)).toBe("openGuestLink");
  await runtime.deleteSnapshot(templateId, undefined);
  await round;
  await world.settle();
  expect(runtime.listSnapshots({ limit: 9 }).snapshots).toEqual([]);
  expect([world.held(), host.machines.size]).toEqual([{ active: 1, warm: 0 }, 1]);
  await world.refill();
  expect(world.held().warm).toBe(0);
});

test("a daemon that stops leaves its sandboxes and no warm machine", async () => {
  await using world = await openWorld({ pool: { min: 2, max: 2 } });
  for (let n = 0; n < 2; n++) await world.refill();
  const { record } = await world.create();
  await world.runtime.close();
  expect(world.held()).toEqual({ active: 1, warm: 0 });
  expect(await readdir(world.machinesFolder)).toEqual([record.machine?.sessionId]);
});

test("after a crash, what waited is adopted, what was half-made is ended, and all capacity is accounted for", async () => {
  await using world = await openWorld();
  const { ledger, deps, host } = world;
  const start = async (sessionId: string) => {
    const machine = {
      engine: "fake",
      sessionId,
      folder: `${world.machinesFolder}/${sessionId}`,
      processes: [],
    } as const;
    const manifest = { shape } as never;
    await deps.driver.restore({ sessionId, snapshotFolder: "", manifest });
    return machine;
  };
  const addEntry = () =>
    ledger.write(() => {
      const { id: reservationId } = reserve(ledger, { kind: "warm", shape, budgets: deps.budgets });
      const key = { templateId: "template-base", buildId: "build-base", runtimeProfile: "fake 1.0.0 none 2/512/1024" };
      return insertWarmEntry(ledger, { ...key, snapshotId: "base-snapshot", reservationId }).id;
    });
  const waited = addEntry();
  markWarmEntryReady(ledger, waited, await start("waited"));
  markWarmEntryReady(ledger, addEntry(), { ...(await start("gone")) });
  host.crash("gone");
  setWarmEntryMachine(ledger, addEntry(), await start("warming"));
  addEntry();
  await start("0".repeat(32));
  const summary = await reconcile(deps, world.runtime, world.machinesFolder);
  await world.settle();
  expect(summary).toMatchObject({ warmAdopted: 1, warmDiscarded: 3, orphanFolders: 1 });
  expect([...host.machines.keys()]).toEqual(["waited"]);
  expect(await readdir(world.machinesFolder)).toEqual(["waited"]);
  expect([readyIds(world), world.held()]).toEqual([[waited], { active: 0, warm: 1 }]);
  expect((await world.create()).record.machine?.sessionId).toBe("waited");
});

test("whatever is created, killed, refilled and dies in whatever order, the sums are right and nothing is left", async () => {
  const step = fc.oneof(
    { weight: 4, arbitrary: fc.constant("create" as const) },
    { weight: 3, arbitrary: fc.constant("refill" as const) },
    { weight: 2, arbitrary: fc.constant("kill" as const) },
    { weight: 2, arbitrary: fc.constant("crash" as const) },
    { weight: 1, arbitrary: fc.constant("refuse set-up" as const) },
    { weight: 1, arbitrary: fc.constant("fail restore" as const) },
    { weight: 1, arbitrary: fc.constant("fail terminate" as const) },
    { weight: 1, arbitrary: fc.constant("an hour" as const) },
  );
  const budgets = { sandboxes: 4 };
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), fc.infiniteStream(fc.nat()), async (steps, numbers) => {
      await using world = await openWorld({ budgets, pool: { min: 2, max: 3 }, queue: { limit: 0, timeoutMs: 0 } });
      const pick = <T>(from: readonly T[]): T | undefined => from[Number(numbers.next().value) % (from.length || 1)];
      const failure = new DomainError("machine_failed", "arranged");
      const live = () => [...world.runtime.liveSessions()].map(({ sandboxId }) => sandboxId);
      for (const what of steps) {
        if (what === "create") await world.create().catch(expectRefusal);
        else if (what === "refill") await world.refill().catch(expectRefusal);
        else if (what === "kill") {
          const id = pick(live());
          if (id) await world.runtime.killSandbox(id);
        } else if (what === "crash") {
          const sessionId = pick([...world.host.machines.keys()]);
          if (sessionId) world.host.crash(sessionId);
        } else if (what === "refuse set-up") world.guests.refusedSetups += 1;
        else if (what === "fail restore") world.host.arrange("restore", { error: failure });
        else if (what === "fail terminate") world.host.arrange("terminate", { error: failure });
        else await world.clock.advance(3_600_000);
        const { active, warm } = world.held();
        expect(active + warm).toBeLessThanOrEqual(budgets.sandboxes);
        expect(world.host.machines.size).toBeLessThanOrEqual(active + warm);
      }
      for (let n = 0; n < 8; n++) await world.clock.advance(60_000);
      await world.settle();
      expect(world.held()).toEqual({ active: live().length, warm: readyIds(world).length });
      expect(world.host.machines.size).toBe(live().length + readyIds(world).length);
      for (const id of live()) await world.runtime.killSandbox(id);
      world.pool.close();
      for (let n = 0; n < 8; n++) await world.clock.advance(60_000);
      await world.settle();
      expect([world.held(), world.host.machines.size]).toEqual([{ active: 0, warm: 0 }, 0]);
      expect([world.host.openLinks, await readdir(world.machinesFolder)]).toEqual([0, []]);
    }),
    { numRuns: 40 },
  );
}, 60_000);

function expectRefusal(error: unknown): void {
  expect(error).toBeInstanceOf(DomainError);
  expect(["capacity_exhausted", "machine_failed", "internal", "invalid_argument"]).toContain(
    (error as DomainError).code,
  );
}
