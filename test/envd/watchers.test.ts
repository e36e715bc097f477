import { expect, test } from "vitest";
import { WatcherTable } from "../../src/envd/watchers.ts";
import { DomainError } from "../../src/errors.ts";
import type { GuestAgent } from "../../src/guest/agent.ts";
import type { FileEvent } from "../../src/types.ts";
import { TestSession } from "../support/daemon/data-plane.ts";

const turns = () => new Promise<void>((resolve) => setImmediate(resolve));

/** A watch that has `count` events at once and then fails. */
function watchOf(count: number) {
  const state = { taken: 0, closed: false };
  async function* events(): AsyncGenerator<FileEvent> {
    for (let i = 0; i < count; i++) {
      state.taken++;
      yield { name: `f${i}`, kind: "create" };
    }
    throw new DomainError("capacity_exhausted", "events were lost");
  }
  return {
    state,
    watch: {
      events: events(),
      caughtUp: () => Promise.resolve(),
      close: () => {
        state.closed = true;
      },
    },
  };
}

const newSession = () => new TestSession("iaawatch", {} as GuestAgent);

test("events wait for the poll in a bounded buffer; the error that ended the watch comes after them", async () => {
  const table = new WatcherTable();
  const session = newSession();
  const { watch, state } = watchOf(10_000);
  const id = table.add(session, watch);
  await turns();
  expect(state.taken).toBe(4_096);
  let seen = 0;
  while (seen < 10_000) {
    seen += (await table.poll(session, id)).length;
    await turns();
  }
  expect(seen).toBe(10_000);
  await expect(table.poll(session, id)).rejects.toThrow("events were lost");
  table.remove(session, id);
  await expect(table.poll(session, id)).rejects.toThrow(`watcher with id ${id} not found`);
});

test("a poll waits until the guest has told of every change before it, and not beyond the end of the watch", async () => {
  const table = new WatcherTable();
  const session = newSession();
  let change = (_event: FileEvent) => {};
  const changed = new Promise<FileEvent>((resolve) => {
    change = resolve;
  });
  const asked: (() => void)[] = [];
  async function* events(): AsyncGenerator<FileEvent> {
    yield await changed;
    asked.shift()?.();
    await new Promise(() => {});
  }
  const caughtUp = () => new Promise<void>((resolve) => asked.push(resolve));
  const id = table.add(session, { events: events(), caughtUp, close: () => {} });
  const poll = table.poll(session, id);
  await turns();
  change({ name: "late", kind: "write" });
  expect(await poll).toEqual([{ name: "late", kind: "write" }]);
  const last = table.poll(session, id);
  session.kill(new DomainError("not_found", "the sandbox was killed"));
  expect(await last).toEqual([]);
});

test("a sandbox has at most 256 watchers, and all end with it", async () => {
  const table = new WatcherTable();
  const session = newSession();
  const watches = Array.from({ length: 256 }, () => watchOf(0));
  for (const { watch } of watches) table.add(session, watch);
  const refused = watchOf(0);
  expect(() => table.add(session, refused.watch)).toThrow("at most 256 watchers");
  expect(refused.state.closed).toBe(true);
  session.kill(new DomainError("not_found", "the sandbox was killed"));
  expect(watches.every(({ state }) => state.closed)).toBe(true);
});
