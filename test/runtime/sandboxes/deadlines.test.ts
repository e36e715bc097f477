/** Tests of deadlines on a host that sleeps, or whose clock is set, over the fake engine. */
import { expect, test, vi } from "vitest";
import { idleTimeBetween } from "../../../src/clock.ts";
import { FakeDaemon, nothing, running } from "../../support/fakes/fake-daemon.ts";

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;

/** A daemon whose clock can be set back by days. */
async function openDaemon(): Promise<FakeDaemon> {
  const daemon = await FakeDaemon.open();
  daemon.clock.jump(1_000 * hourMs);
  return daemon;
}

/** Lets the time pass as it does for a daemon that works: with a look at the deadlines every second. */
async function pass(daemon: FakeDaemon, ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 1_000) {
    await daemon.clock.advance(1_000);
    daemon.runtime.deadlines.expireDue();
  }
  await daemon.settle();
}

const remainingMs = ({ runtime, clock }: FakeDaemon, id: string) =>
  runtime.registry.get(id).record.endAtMs - clock.nowMs();

test("the time that a host slept, or that its clock was set by, is told from the time that passed", () => {
  const before = { wallMs: 1e12, monotonicMs: 5_000 };
  const after = (wallMs: number, monotonicMs: number) =>
    idleTimeBetween(before, { wallMs: before.wallMs + wallMs, monotonicMs: before.monotonicMs + monotonicMs });
  expect(after(100, 100)).toBe(0);
  expect(after(900, 100)).toBe(0);
  expect(after(29_000, 29_000)).toBe(0);
  expect(after(hourMs + 100, 100)).toBe(hourMs);
  expect(after(-hourMs + 100, 100)).toBe(-hourMs);
  // Where the monotonic clock runs on during a sleep.
  expect(after(hourMs, hourMs)).toBe(hourMs);
  // The ledger takes whole milliseconds, and the monotonic clock has fractions.
  expect(after(hourMs + 100, 100.4)).toBe(hourMs);
  expect(after(-hourMs + 100, 100.7)).toBe(-hourMs - 1);
});

test.each([
  ["set on by two hours, or whose host slept", 2 * hourMs],
  ["set back by two days", -48 * hourMs],
])("a clock that is %s ends no sandbox early, and every sandbox in time", async (_, jumpMs) => {
  await using daemon = await openDaemon();
  const { clock } = daemon;
  const { id } = (await daemon.create({ timeoutMs: 10 * minuteMs })).record;
  await pass(daemon, minuteMs);
  clock.jump(jumpMs);
  await pass(daemon, minuteMs);
  expect(await daemon.remains()).toEqual(running);
  expect(remainingMs(daemon, id)).toBe(8 * minuteMs);
  expect(daemon.logged.map(({ msg }) => msg)).toEqual([
    "the host slept or its clock was set, and the deadlines moved with it",
  ]);
  await pass(daemon, 7 * minuteMs);
  expect(remainingMs(daemon, id)).toBe(minuteMs);
  // The deadline is kept, so a daemon that starts counts on from it.
  await daemon.restart();
  expect(remainingMs(daemon, id)).toBe(minuteMs);
  await pass(daemon, minuteMs);
  expect(await daemon.remains()).toEqual(nothing);
});

test("a sandbox that is made or given time after the clock was set back has its whole time", async () => {
  await using daemon = await openDaemon();
  const { runtime, clock } = daemon;
  const { id } = (await daemon.create({ timeoutMs: 10 * minuteMs })).record;
  await pass(daemon, 1_000);
  clock.jump(-48 * hourMs);
  const fresh = (await daemon.create({ timeoutMs: 5 * minuteMs })).record.id;
  await runtime.deadlines.set(id, 20 * minuteMs);
  await pass(daemon, 1_000);
  expect([remainingMs(daemon, fresh), remainingMs(daemon, id)]).toEqual([5 * minuteMs - 1_000, 20 * minuteMs - 1_000]);
});

test("deadlines that cannot be written down move later, and nothing is due before", async () => {
  await using daemon = await openDaemon();
  const { runtime, clock, ledger } = daemon;
  const { id } = (await daemon.create({ timeoutMs: 10 * minuteMs })).record;
  await pass(daemon, 1_000);
  clock.jump(2 * hourMs);
  const write = vi.spyOn(ledger, "write").mockImplementation(() => {
    throw new Error("arranged by the test");
  });
  expect(() => runtime.deadlines.expireDue()).toThrow("arranged by the test");
  write.mockRestore();
  await pass(daemon, 1_000);
  expect(remainingMs(daemon, id)).toBe(10 * minuteMs - 2_000);
});
