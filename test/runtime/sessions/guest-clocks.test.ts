/** Tests of the clocks of guests after a sleep of their host, or a time without a daemon. */
import { setImmediate as turn } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { FakeDaemon } from "../../support/fakes/fake-daemon.ts";

const hourMs = 3_600_000;

/** One round of heartbeats, so many milliseconds after the round before. */
async function beat({ runtime, clock }: FakeDaemon, afterMs = 5_000): Promise<void> {
  await clock.advance(afterMs);
  runtime.checkHeartbeats();
  // The guests are in this process, so that their answers take turns of its loop, and no time.
  for (let n = 0; n < 50; n++) await turn();
}

test("a guest is given the time when its host's clock jumped, and not because time passes", async () => {
  await using daemon = await FakeDaemon.open();
  const { clock, guests } = daemon;
  await daemon.create();
  for (let n = 0; n < 3; n++) await beat(daemon);
  expect(guests.times).toHaveLength(1);
  const wallMs = clock.nowMs.bind(clock);
  vi.spyOn(clock, "nowMs").mockImplementation(() => wallMs() + hourMs);
  await beat(daemon);
  await beat(daemon);
  expect(guests.times.slice(1)).toEqual([clock.nowMs() - 5_000]);
  await beat(daemon, hourMs);
  expect(guests.times.slice(2)).toEqual([clock.nowMs()]);
});

test("a guest that could not be given the time is given it at the next round", async () => {
  await using daemon = await FakeDaemon.open();
  await daemon.create();
  await beat(daemon);
  daemon.guests.refusedSetups = 1;
  await beat(daemon, hourMs);
  expect(daemon.guests.times).toHaveLength(1);
  await beat(daemon);
  expect(daemon.guests.times.slice(1)).toEqual([daemon.clock.nowMs()]);
});

test("a daemon that starts gives the time to the machines that it takes over", async () => {
  await using daemon = await FakeDaemon.open();
  await daemon.create();
  await daemon.restart(() => daemon.clock.advance(hourMs));
  expect(daemon.guests.times.at(-1)).toBe(daemon.clock.nowMs());
});
