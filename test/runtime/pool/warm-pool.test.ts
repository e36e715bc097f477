/**
 * The warm pool over a pretended host: which create gets which machine, which machines are made ahead, and that nothing
 * is left of them.
 */
import { readdir } from "node:fs/promises";
import fc from "fast-check";
import { expect, test, vi } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { reserve } from "../../../src/ledger/capacity.ts";
import {
  insertWarmEntry,
  listWarmEntries,
  markWarmEntryReady,
  setWarmEntryMachine,
} from "../../../src/ledger/warm-entries.ts";
import { reconcile } from "../../../src/runtime/restart/reconcile.ts";
import { shape } from "../../ledger/support.ts";
import { FakeDaemon, pooled } from "../../support/fakes/fake-daemon.ts";

const readyIds = ({ ledger }: FakeDaemon) => listWarmEntries(ledger, ["ready"]).map(({ id }) => id);
const hit = 'firkin_warm_pool_checkouts_total{outcome="hit"}';
const miss = 'firkin_warm_pool_checkouts_total{outcome="miss"}';

test("a create takes a warm machine, which gets its own identity, and the next round makes another", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  await daemon.refill();
  expect(daemon.held()).toEqual({ active: 0, warm: 1 });
  const [warm] = listWarmEntries(daemon.ledger, ["ready"]);
  const commands = daemon.guests.commands;
  expect(commands).toBe(1);
  const restores = daemon.host.calls.length;
  const { record } = await daemon.create();
  expect(daemon.host.calls.length).toBe(restores);
  expect(record.machine).toEqual({ ...warm?.machine, bootId: "boot" });
  expect(record.reservationId).toBe(warm?.reservationId);
  expect(daemon.guests.hostnames.at(-1)).toBe(record.id);
  expect(daemon.held()).toEqual({ active: 1, warm: 0 });
  await daemon.refill();
  expect(daemon.held()).toEqual({ active: 1, warm: 1 });
  expect([await daemon.metric(hit), await daemon.metric(miss)]).toEqual([1, 0]);
  await daemon.runtime.ends.kill(record.id);
  await daemon.settle();
  expect(daemon.held()).toEqual({ active: 0, warm: 1 });
});

test("where memory cannot be restored now, base alone is kept warm, by a boot", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const locked = { error: new DomainError("not_ready", "the screen is locked") };
  daemon.host.arrange("restore", locked);
  await daemon.refill();
  expect(readyIds(daemon).length).toBe(1);
  await daemon.addTemplate("other");
  await daemon.create("other");
  daemon.host.arrange("restore", locked);
  await expect(daemon.refill()).rejects.toBe(locked.error);
});

test("a create from an empty pool is a restore, and counts as a miss", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const { record } = await daemon.create();
  expect(record.machine).not.toBeNull();
  expect([await daemon.metric(hit), await daemon.metric(miss)]).toEqual([0, 1]);
});

test("a pool that is turned off makes nothing and counts nothing", async () => {
  await using daemon = await FakeDaemon.open({ ...pooled, pool: { min: 3, max: 0 } });
  await daemon.create();
  await daemon.refill();
  expect(daemon.held()).toEqual({ active: 1, warm: 0 });
  expect([await daemon.metric(hit), await daemon.metric(miss)]).toEqual([0, 0]);
});

test("a warm machine that fails its probe is replaced, and the client sees only success", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  await daemon.refill();
  daemon.guests.refusedSetups = 1;
  const { record } = await daemon.create();
  expect(daemon.host.machines.size).toBe(1);
  expect([...daemon.host.machines.keys()]).toEqual([record.machine?.sessionId]);
  expect(daemon.held()).toEqual({ active: 1, warm: 0 });
  expect(await daemon.metric('firkin_warm_pool_checkouts_total{outcome="failed"}')).toBe(1);
});

test("a warm machine that fails and cannot be ended fails the create, and keeps its capacity until it is gone", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  await daemon.refill();
  daemon.guests.refusedSetups = 1;
  const failure = new DomainError("machine_failed", "it will not go");
  daemon.host.arrange("terminate", { error: failure }, { error: failure });
  await expect(daemon.create()).rejects.toBe(failure);
  expect(daemon.held()).toEqual({ active: 1, warm: 0 });
  await daemon.clock.advance(60_000);
  await daemon.settle();
  expect([daemon.held(), daemon.host.machines.size]).toEqual([{ active: 0, warm: 0 }, 0]);
});

test("a warm machine that dies is noticed and replaced", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  await daemon.refill();
  const [before] = readyIds(daemon);
  for (const sessionId of [...daemon.host.machines.keys()]) daemon.host.crash(sessionId);
  await daemon.settle();
  expect(daemon.held()).toEqual({ active: 0, warm: 0 });
  await daemon.refill();
  expect(readyIds(daemon)).toHaveLength(1);
  expect(readyIds(daemon)[0]).not.toBe(before);
});

test("the pool grows with demand up to its maximum, and shrinks again, oldest first", async () => {
  await using daemon = await FakeDaemon.open({ ...pooled, pool: { min: 1, max: 3 } });
  for (let n = 0; n < 5; n++) await daemon.create();
  for (let n = 0; n < 5; n++) await daemon.refill();
  const grown = readyIds(daemon);
  expect(grown).toHaveLength(3);
  await daemon.clock.advance(6 * 60_000);
  await daemon.refill();
  expect(readyIds(daemon)).toEqual(grown.slice(2));
});

test("a create takes the oldest machine of its template, and of no other", async () => {
  await using daemon = await FakeDaemon.open({ ...pooled, pool: { min: 2, max: 2 } });
  for (let n = 0; n < 2; n++) await daemon.refill();
  const machines = listWarmEntries(daemon.ledger, ["ready"]).map(({ machine }) => machine);
  await daemon.addTemplate("other");
  const { record: other } = await daemon.create("other");
  expect(machines).not.toContainEqual(other.machine);
  const taken = [await daemon.create(), await daemon.create()].map(({ record }) => record.machine);
  expect(taken).toEqual(machines.map((machine) => ({ ...machine, bootId: "boot" })));
  expect((await daemon.create()).record.machine).not.toBeNull();
  expect([await daemon.metric(hit), await daemon.metric(miss)]).toEqual([2, 2]);
});

test("only base is kept warm without demand; another template is kept warm after a create", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  await daemon.addTemplate("other");
  for (let n = 0; n < 3; n++) await daemon.refill();
  expect(listWarmEntries(daemon.ledger, ["ready"]).map(({ templateId }) => templateId)).toEqual(["template-base"]);
  await daemon.create("other");
  await daemon.refill();
  expect(listWarmEntries(daemon.ledger, ["ready"]).map(({ templateId }) => templateId)).toEqual([
    "template-base",
    "template-other",
  ]);
});

test("a round reads no more of the ledger for templates without demand", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  await daemon.refill();
  const asked = vi.spyOn(daemon.ledger, "statement");
  const round = async () => {
    asked.mockClear();
    await daemon.refill();
    return asked.mock.calls.length;
  };
  const before = await round();
  for (let n = 0; n < 20; n++) await daemon.addTemplate(`other-${n}`);
  expect(await round()).toBe(before);
});

test("old machines are replaced", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  await daemon.refill();
  const before = readyIds(daemon);
  await daemon.clock.advance(3_600_000);
  await daemon.refill();
  await daemon.settle();
  expect(daemon.held()).toEqual({ active: 0, warm: 1 });
  expect(readyIds(daemon)).not.toEqual(before);
});

test("nothing is refilled while a create is under way, right after it, or with less than two floors of free disk", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const tick = () => daemon.deps.warmPool.maintain(new AbortController().signal);
  const ended = daemon.deps.warmPool.beginCreate("template-base");
  await tick();
  ended();
  await tick();
  expect(daemon.held().warm).toBe(0);
  daemon.disk.freeBytes = 19 * 2 ** 30;
  await daemon.refill();
  expect(daemon.held().warm).toBe(0);
  daemon.disk.freeBytes = 21 * 2 ** 30;
  await daemon.refill();
  expect(daemon.held().warm).toBe(1);
});

test("a refill that fails leaves nothing, is reported, and is not tried again at once", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const failure = new DomainError("machine_failed", "no memory");
  daemon.host.arrange("restore", { error: failure });
  await expect(daemon.refill()).rejects.toBe(failure);
  await daemon.settle();
  expect([daemon.held(), daemon.host.machines.size]).toEqual([{ active: 0, warm: 0 }, 0]);
  await daemon.deps.warmPool.maintain(new AbortController().signal);
  expect(daemon.held().warm).toBe(0);
  await daemon.refill();
  expect(daemon.held().warm).toBe(1);
});

test("a stop in the middle of a refill leaves nothing", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  await daemon.clock.advance(1_000);
  daemon.host.arrange("openGuestLink", { delayMs: 10_000 });
  const stop = new AbortController();
  const round = daemon.deps.warmPool.maintain(stop.signal);
  await expect.poll(() => daemon.host.calls.at(-1)).toBe("openGuestLink");
  stop.abort();
  await round;
  await daemon.settle();
  expect([daemon.held(), daemon.host.machines.size]).toEqual([{ active: 0, warm: 0 }, 0]);
  expect(await readdir(daemon.machinesFolder)).toEqual([]);
});

test("a snapshot is deleted although a warm machine is just being made of it", async () => {
  await using daemon = await FakeDaemon.open({ ...pooled, pool: { min: 0, max: 1 } });
  const { runtime, host } = daemon;
  const { templateId } = await runtime.snapshots.take((await daemon.create()).record.id);
  await daemon.clock.advance(6 * 60_000);
  await runtime.ends.kill((await daemon.create(templateId)).record.id);
  await daemon.settle();
  await daemon.clock.advance(1_000);
  host.arrange("openGuestLink", { delayMs: 10_000 });
  const stop = new AbortController();
  const round = daemon.deps.warmPool.maintain(stop.signal);
  await expect.poll(() => daemon.deps.warmPool.depth().warming).toBe(1);
  await expect.poll(() => host.calls.at(-1)).toBe("openGuestLink");
  await runtime.snapshots.remove(templateId, undefined);
  await round;
  await daemon.settle();
  expect(runtime.snapshots.list({ limit: 9 }).snapshots).toEqual([]);
  expect([daemon.held(), host.machines.size]).toEqual([{ active: 1, warm: 0 }, 1]);
  await daemon.refill();
  expect(daemon.held().warm).toBe(0);
});

test("a daemon that stops leaves its sandboxes and no warm machine", async () => {
  await using daemon = await FakeDaemon.open({ ...pooled, pool: { min: 2, max: 2 } });
  for (let n = 0; n < 2; n++) await daemon.refill();
  const { record } = await daemon.create();
  await daemon.runtime.close();
  expect(daemon.held()).toEqual({ active: 1, warm: 0 });
  expect(await readdir(daemon.machinesFolder)).toEqual([record.machine?.sessionId]);
});

test("after a crash, waiting machines are adopted, half-made ones are ended, and all capacity is accounted for", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const { ledger, deps, host } = daemon;
  const start = async (sessionId: string) => {
    const machine = {
      engine: "qemu",
      sessionId,
      folder: `${daemon.machinesFolder}/${sessionId}`,
      processes: [],
    } as const;
    const manifest = { shape } as never;
    await deps.driver.restore({ sessionId, snapshotFolder: "", manifest });
    return machine;
  };
  const addEntry = () =>
    ledger.write(() => {
      const { id: reservationId } = reserve(ledger, { kind: "warm", shape, budgets: deps.budgets });
      const key = { templateId: "template-base", buildId: "build-base", runtimeProfile: "qemu 1.0.0 none 2/512/1024" };
      return insertWarmEntry(ledger, { ...key, snapshotId: "base-snapshot", reservationId }).id;
    });
  const waited = addEntry();
  markWarmEntryReady(ledger, waited, await start("waited"));
  markWarmEntryReady(ledger, addEntry(), { ...(await start("gone")) });
  host.crash("gone");
  setWarmEntryMachine(ledger, addEntry(), await start("warming"));
  addEntry();
  await start("0".repeat(32));
  const summary = await reconcile(deps, daemon.runtime, daemon.machinesFolder);
  await daemon.settle();
  expect(summary).toMatchObject({ warmAdopted: 1, warmDiscarded: 3, orphanFolders: 1 });
  expect([...host.machines.keys()]).toEqual(["waited"]);
  expect(await readdir(daemon.machinesFolder)).toEqual(["waited"]);
  expect([readyIds(daemon), daemon.held()]).toEqual([[waited], { active: 0, warm: 1 }]);
  expect((await daemon.create()).record.machine?.sessionId).toBe("waited");
});

test("after any order of creates, kills, refills and deaths the sums are right and nothing is left", async () => {
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
      await using daemon = await FakeDaemon.open({
        ...pooled,
        budgets,
        pool: { min: 2, max: 3 },
        queue: { limit: 0, timeoutMs: 0 },
      });
      const pick = <T>(from: readonly T[]): T | undefined => from[Number(numbers.next().value) % (from.length || 1)];
      const failure = new DomainError("machine_failed", "arranged");
      const live = () => [...daemon.runtime.registry.sessions()].map(({ sandboxId }) => sandboxId);
      for (const what of steps) {
        if (what === "create") await daemon.create().catch(expectRefusal);
        else if (what === "refill") await daemon.refill().catch(expectRefusal);
        else if (what === "kill") {
          const id = pick(live());
          if (id) await daemon.runtime.ends.kill(id);
        } else if (what === "crash") {
          const sessionId = pick([...daemon.host.machines.keys()]);
          if (sessionId) daemon.host.crash(sessionId);
        } else if (what === "refuse set-up") daemon.guests.refusedSetups += 1;
        else if (what === "fail restore") daemon.host.arrange("restore", { error: failure });
        else if (what === "fail terminate") daemon.host.arrange("terminate", { error: failure });
        else await daemon.clock.advance(3_600_000);
        const { active, warm } = daemon.held();
        expect(active + warm).toBeLessThanOrEqual(budgets.sandboxes);
        expect(daemon.host.machines.size).toBeLessThanOrEqual(active + warm);
      }
      for (let n = 0; n < 8; n++) await daemon.clock.advance(60_000);
      await daemon.settle();
      expect(daemon.held()).toEqual({ active: live().length, warm: readyIds(daemon).length });
      expect(daemon.host.machines.size).toBe(live().length + readyIds(daemon).length);
      for (const id of live()) await daemon.runtime.ends.kill(id);
      daemon.deps.warmPool.close();
      for (let n = 0; n < 8; n++) await daemon.clock.advance(60_000);
      await daemon.settle();
      expect([daemon.held(), daemon.host.machines.size]).toEqual([{ active: 0, warm: 0 }, 0]);
      expect([daemon.host.openLinks, await readdir(daemon.machinesFolder)]).toEqual([0, []]);
    }),
    { numRuns: 40 },
  );
});

function expectRefusal(error: unknown): void {
  expect(error).toBeInstanceOf(DomainError);
  expect(["capacity_exhausted", "machine_failed", "internal", "invalid_argument"]).toContain(
    (error as DomainError).code,
  );
}
