/** The clocks of guests whose host sleeps, or whose daemon was not there meanwhile. */
import { setImmediate as turn } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { FakeEngine } from "../support/fake-engine.ts";

const hourMs = 3_600_000;

/** One round of heartbeats, so long after the one before. */
async function beat({ runtime, clock }: FakeEngine, afterMs = 5_000): Promise<void> {
  await clock.advance(afterMs);
  runtime.checkHeartbeats();
  // The guests are in this process: what they are asked takes turns of its loop, and no time.
  for (let n = 0; n < 50; n++) await turn();
}

test("a guest is given the time when its host's clock jumped, and not when time only passes", async () => {
  await using engine = await FakeEngine.open();
  const { clock, guests } = engine;
  await engine.create();
  for (let n = 0; n < 3; n++) await beat(engine);
  expect(guests.times).toHaveLength(1);
  const wallMs = clock.nowMs.bind(clock);
  vi.spyOn(clock, "nowMs").mockImplementation(() => wallMs() + hourMs);
  await beat(engine);
  await beat(engine);
  expect(guests.times.slice(1)).toEqual([clock.nowMs() - 5_000]);
  await beat(engine, hourMs);
  expect(guests.times.slice(2)).toEqual([clock.nowMs()]);
});

test("a guest that could not be given the time is given it at the next round", async () => {
  await using engine = await FakeEngine.open();
  await engine.create();
  await beat(engine);
  engine.guests.refusedSetups = 1;
  await beat(engine, hourMs);
  expect(engine.guests.times).toHaveLength(1);
  await beat(engine);
  expect(engine.guests.times.slice(1)).toEqual([engine.clock.nowMs()]);
});

test("a daemon that starts gives the time to the machines that it takes over", async () => {
  await using engine = await FakeEngine.open();
  await engine.create();
  await engine.restart(() => engine.clock.advance(hourMs));
  expect(engine.guests.times.at(-1)).toBe(engine.clock.nowMs());
});
