import { expect, test } from "vitest";
import { comesWithin } from "../src/clock.ts";
import { ManualClock } from "./support/fakes/manual-clock.ts";

const never = new Promise<void>(() => {});

test("an event that comes in time is told, and its wait is over", async () => {
  const clock = new ManualClock();
  expect(await comesWithin(clock, Promise.resolve("came"), 100)).toBe(true);
  expect(clock.sleeperCount).toBe(0);
});

test("an event that does not come in time is told once the time is up", async () => {
  const clock = new ManualClock();
  const came = comesWithin(clock, never, 100);
  await clock.advance(99);
  expect(clock.sleeperCount).toBe(1);
  await clock.advance(1);
  expect(await came).toBe(false);
});

test("the error of an event is passed on", async () => {
  const clock = new ManualClock();
  await expect(comesWithin(clock, Promise.reject(new Error("it broke")), 100)).rejects.toThrow("it broke");
  expect(clock.sleeperCount).toBe(0);
});

test("an event that fails after its time is no unhandled rejection", async () => {
  const clock = new ManualClock();
  let fail: (error: Error) => void = () => {};
  const event = new Promise<void>((_, reject) => {
    fail = reject;
  });
  const came = comesWithin(clock, event, 100);
  await clock.advance(100);
  expect(await came).toBe(false);
  fail(new Error("too late"));
  await new Promise((resolve) => setImmediate(resolve));
});

test("a signal ends the wait with its reason", async () => {
  const clock = new ManualClock();
  const gaveUp = new AbortController();
  const came = comesWithin(clock, never, 100, gaveUp.signal);
  gaveUp.abort(new Error("the daemon stops"));
  await expect(came).rejects.toThrow("the daemon stops");
  expect(clock.sleeperCount).toBe(0);
});
