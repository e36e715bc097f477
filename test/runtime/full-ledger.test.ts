/** A ledger that cannot be written for a while: what ended meanwhile is written down as soon as there is room. */
import { expect, test, vi } from "vitest";
import { DomainError } from "../../src/errors.ts";
import type { Ledger } from "../../src/ledger/open.ts";
import { FakeEngine } from "../support/fake-engine.ts";
import { openWorld } from "../support/runtime-world.ts";

const full = new DomainError("disk_pressure", "No space is left to write the ledger");

/** As on a full disk: whoever changes something fails when it commits, whoever refuses before does not notice. */
function fillable(ledger: Ledger): { isFull: boolean } {
  const disk = { isFull: false };
  const write = ledger.write.bind(ledger);
  let isInner = false;
  vi.spyOn(ledger, "write").mockImplementation((change) => {
    if (isInner) return write(change);
    isInner = true;
    try {
      return write(() => {
        const result = change();
        if (disk.isFull) throw full;
        return result;
      });
    } finally {
      isInner = false;
    }
  });
  return disk;
}

test("a create that fails while the disk is full gives its capacity back when there is room", async () => {
  await using engine = await FakeEngine.open();
  const disk = fillable(engine.deps.ledger);
  const failure = new DomainError("machine_failed", "out of luck");
  vi.spyOn(engine.deps.driver, "restore").mockImplementationOnce(async () => {
    disk.isFull = true;
    throw failure;
  });
  await expect(engine.create()).rejects.toBe(failure);
  await expect.poll(() => engine.remains()).toMatchObject({ machines: 0, reservations: 1 });
  disk.isFull = false;
  await engine.clock.advance(60_000);
  await engine.settle();
  expect(await engine.remains()).toMatchObject({ machines: 0, reservations: 0 });
});

test("a warm machine that dies while the disk is full gives its capacity back when there is room", async () => {
  await using world = await openWorld();
  await world.refill();
  const disk = fillable(world.ledger);
  disk.isFull = true;
  for (const sessionId of [...world.host.machines.keys()]) world.host.crash(sessionId);
  const warm = () => [world.held().warm, world.pool.depth()];
  await expect.poll(warm).toEqual([1, { ready: 0, warming: 0, leaving: 1 }]);
  disk.isFull = false;
  await world.clock.advance(60_000);
  await world.settle();
  expect(warm()).toEqual([0, { ready: 0, warming: 0, leaving: 0 }]);
});

test("a create whose room a warm machine makes waits until the ledger can be written", async () => {
  await using world = await openWorld({ budgets: { sandboxes: 1 } });
  await world.addTemplate("other");
  await world.refill();
  const disk = fillable(world.ledger);
  disk.isFull = true;
  const created = world.create("other");
  await expect.poll(() => world.admission.queueLength).toBe(1);
  expect(world.held()).toEqual({ active: 0, warm: 1 });
  disk.isFull = false;
  await world.clock.advance(1_000);
  await created;
  expect(world.held()).toEqual({ active: 1, warm: 0 });
});

test("a daemon stops whole while the disk is full", async () => {
  await using world = await openWorld();
  const { record } = await world.create();
  await world.refill();
  const disk = fillable(world.ledger);
  disk.isFull = true;
  await world.runtime.close();
  disk.isFull = false;
  expect(world.runtime.findSession(record.id)?.ended.aborted).toBe(true);
});
