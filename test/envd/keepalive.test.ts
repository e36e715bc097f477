import { expect, test } from "vitest";
import { withKeepalive } from "../../src/envd/keepalive.ts";
import { ManualClock } from "../support/fakes/manual-clock.ts";

/** A source that a test feeds. */
function source() {
  let deliver: (result: IteratorResult<string>) => void = () => {};
  let returned = 0;
  return {
    iterator: {
      next: () =>
        new Promise<IteratorResult<string>>((resolve) => {
          deliver = resolve;
        }),
      return: async () => {
        returned++;
        return { done: true as const, value: undefined };
      },
    },
    emit: (value: string) => deliver({ done: false, value }),
    end: () => deliver({ done: true, value: undefined }),
    get returned() {
      return returned;
    },
  };
}

test("keepalives come after silence only, and events restart the wait", async () => {
  const clock = new ManualClock();
  const { iterator, emit, end } = source();
  const stream = withKeepalive(iterator, "alive", { clock, keepaliveMs: 100, signal: new AbortController().signal });
  const first = stream.next();
  await clock.advance(90);
  emit("event");
  expect((await first).value).toBe("event");
  const second = stream.next();
  await clock.advance(90);
  await clock.advance(10);
  expect((await second).value).toBe("alive");
  const third = stream.next();
  await clock.advance(100);
  expect((await third).value).toBe("alive");
  const fourth = stream.next();
  end();
  expect((await fourth).done).toBe(true);
  await clock.advance(0);
  expect(clock.sleeperCount).toBe(0);
});

test("an abort ends it with its reason, returns the source and stops the timer", async () => {
  const clock = new ManualClock();
  const feed = source();
  const stop = new AbortController();
  const stream = withKeepalive(feed.iterator, "alive", { clock, keepaliveMs: 100, signal: stop.signal });
  const pending = stream.next();
  stop.abort(new Error("client gone"));
  await expect(pending).rejects.toThrow("client gone");
  expect(feed.returned).toBeGreaterThan(0);
  await clock.advance(0);
  expect(clock.sleeperCount).toBe(0);
});
