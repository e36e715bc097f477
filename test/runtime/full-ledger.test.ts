/** A ledger that cannot be written for a while: what ended meanwhile is written down as soon as there is room. */
import { setTimeout as delay } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { FakeEngine } from "../support/fake-engine.ts";

const full = new DomainError("disk_pressure", "No space is left to write the ledger");

test("a create that fails while the disk is full gives its capacity back when there is room", async () => {
  await using engine = await FakeEngine.open();
  const { ledger, driver } = engine.deps;
  const failure = new DomainError("machine_failed", "out of luck");
  const write = ledger.write.bind(ledger);
  let isFull = false;
  vi.spyOn(ledger, "write").mockImplementation((change) => {
    if (isFull) throw full;
    return write(change);
  });
  vi.spyOn(driver, "restore").mockImplementationOnce(async () => {
    isFull = true;
    throw failure;
  });
  await expect(engine.create()).rejects.toBe(failure);
  await delay(50);
  expect(await engine.remains()).toMatchObject({ machines: 0, reservations: 1 });
  isFull = false;
  await engine.clock.advance(60_000);
  await engine.settle();
  expect(await engine.remains()).toMatchObject({ machines: 0, reservations: 0 });
});
