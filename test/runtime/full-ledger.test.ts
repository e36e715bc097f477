/** Tests with a ledger that cannot be written for a while: ends are written down as soon as there is room. */
import { expect, test, vi } from "vitest";
import { DomainError } from "../../src/errors.ts";
import type { Ledger } from "../../src/ledger/open.ts";
import { FakeDaemon, pooled } from "../support/fakes/fake-daemon.ts";

const full = new DomainError("disk_pressure", "No space is left to write the ledger");

/** Makes a ledger fail as on a full disk: a change fails when it commits, and a refusal before that is not affected. */
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
  await using daemon = await FakeDaemon.open();
  const disk = fillable(daemon.deps.ledger);
  const failure = new DomainError("machine_failed", "out of luck");
  vi.spyOn(daemon.deps.driver, "restore").mockImplementationOnce(async () => {
    disk.isFull = true;
    throw failure;
  });
  await expect(daemon.create()).rejects.toBe(failure);
  await expect.poll(() => daemon.remains()).toMatchObject({ machines: 0, reservations: 1 });
  disk.isFull = false;
  await daemon.clock.advance(60_000);
  await daemon.settle();
  expect(await daemon.remains()).toMatchObject({ machines: 0, reservations: 0 });
});

test("a warm machine that dies while the disk is full gives its capacity back when there is room", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  await daemon.refill();
  const disk = fillable(daemon.ledger);
  disk.isFull = true;
  for (const sessionId of [...daemon.host.machines.keys()]) daemon.host.crash(sessionId);
  const warm = () => [daemon.held().warm, daemon.deps.warmPool.depth()];
  await expect.poll(warm).toEqual([1, { ready: 0, warming: 0, leaving: 1 }]);
  disk.isFull = false;
  await daemon.clock.advance(60_000);
  await daemon.settle();
  expect(warm()).toEqual([0, { ready: 0, warming: 0, leaving: 0 }]);
});

test("a warm machine that died while the disk was full is given to no create afterwards", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  await daemon.refill();
  const disk = fillable(daemon.ledger);
  disk.isFull = true;
  for (const sessionId of [...daemon.host.machines.keys()]) daemon.host.crash(sessionId);
  await expect.poll(() => daemon.deps.warmPool.depth().leaving).toBe(1);
  disk.isFull = false;
  const { record } = await daemon.create();
  expect([...daemon.host.machines.keys()]).toEqual([record.machine?.sessionId]);
  await daemon.clock.advance(60_000);
  await daemon.settle();
  expect(daemon.held()).toEqual({ active: 1, warm: 0 });
});

test("a warm machine waits for the next create after a checkout that could not be written", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  await daemon.refill();
  const [warm] = daemon.host.machines.keys();
  const disk = fillable(daemon.ledger);
  disk.isFull = true;
  await expect(daemon.create()).rejects.toBe(full);
  expect([daemon.held(), daemon.deps.warmPool.depth().ready]).toEqual([{ active: 0, warm: 1 }, 1]);
  disk.isFull = false;
  const { record } = await daemon.create();
  expect(record.machine?.sessionId).toBe(warm);
  expect(daemon.guests.hostnames.at(-1)).toBe(record.id);
  expect(daemon.held()).toEqual({ active: 1, warm: 0 });
});

test("a create whose room a warm machine makes waits until the ledger can be written", async () => {
  await using daemon = await FakeDaemon.open({ ...pooled, budgets: { sandboxes: 1 } });
  await daemon.addTemplate("other");
  await daemon.refill();
  const disk = fillable(daemon.ledger);
  disk.isFull = true;
  const created = daemon.create("other");
  await expect.poll(() => daemon.deps.admission.queueLength).toBe(1);
  expect(daemon.held()).toEqual({ active: 0, warm: 1 });
  disk.isFull = false;
  await daemon.clock.advance(1_000);
  await created;
  expect(daemon.held()).toEqual({ active: 1, warm: 0 });
});

test("a daemon stops as usual while the disk is full", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const { record } = await daemon.create();
  await daemon.refill();
  const disk = fillable(daemon.ledger);
  disk.isFull = true;
  await daemon.runtime.close();
  disk.isFull = false;
  expect(daemon.runtime.registry.session(record.id)?.ended.aborted).toBe(true);
});
