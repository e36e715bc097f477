import { pino } from "pino";
import { expect, test, vi } from "vitest";
import { Heartbeats, judgeSilence } from "../../../src/runtime/sessions/heartbeats.ts";
import type { Session } from "../../../src/runtime/sessions/session.ts";
import { ManualClock } from "../../support/fakes/manual-clock.ts";

const timeoutMs = 60_000;

/** The parts that a test moves and looks at. `stuck` has the sessions that were given up. */
function watcher() {
  const clock = new ManualClock();
  const stuck: Session[] = [];
  const cleanup = new Heartbeats(clock, timeoutMs, (session) => stuck.push(session));
  return { clock, stuck, cleanup };
}

/** A session with the parts that a test changes. */
interface FakeSession extends Session {
  standsStill: boolean;
  receivedBytes: number | undefined;
  cpuMs: number | undefined;
  cpuTimeMs(): number | undefined;
}

function sessionThat(ping: () => Promise<void>): FakeSession {
  const session = {
    standsStill: false,
    receivedBytes: 0,
    cpuMs: undefined as number | undefined,
    cpuTimeMs: () => session.cpuMs,
    agent: { ping },
    ended: new AbortController().signal,
    log: pino({ level: "silent" }),
  };
  return session as unknown as FakeSession;
}

const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

test("the decision depends on the time without a sign of life, and a machine that works has more of it", () => {
  for (const [share, patienceMs] of [
    [undefined, timeoutMs],
    [0, timeoutMs],
    [0.1, timeoutMs],
    [0.2, 5 * timeoutMs],
    [2, 5 * timeoutMs],
  ] as const) {
    expect(judgeSilence({ silentMs: patienceMs - 1, timeoutMs, share })).toBe("preserve");
    expect(judgeSilence({ silentMs: patienceMs, timeoutMs, share })).toBe("give_up");
  }
});

test("a machine that answers is preserved however long it lives", async () => {
  const { clock, stuck, cleanup } = watcher();
  const session = sessionThat(async () => {});
  for (let turn = 0; turn < 20; turn++) {
    cleanup.check([session]);
    await settled();
    await clock.advance(timeoutMs / 2);
  }
  expect(stuck).toEqual([]);
});

test("a machine that never answers is given up after the deadline, with one ping under way at most", async () => {
  const { clock, stuck, cleanup } = watcher();
  const ping = vi.fn(() => new Promise<void>(() => {}));
  const session = sessionThat(ping);
  for (let turn = 0; turn < 6; turn++) {
    cleanup.check([session]);
    await settled();
    await clock.advance(10_000);
  }
  expect(stuck).toEqual([]);
  cleanup.check([session]);
  expect(stuck).toEqual([session]);
  expect(ping).toHaveBeenCalledTimes(1);
});

test("a machine whose link breaks for a while is preserved once it answers again", async () => {
  const { clock, stuck, cleanup } = watcher();
  let answers = false;
  const session = sessionThat(async () => {
    if (!answers) throw new Error("the link is being re-established");
  });
  for (const ms of [0, 30_000, 20_000]) {
    await clock.advance(ms);
    cleanup.check([session]);
    await settled();
  }
  answers = true;
  cleanup.check([session]);
  await settled();
  await clock.advance(50_000);
  cleanup.check([session]);
  expect(stuck).toEqual([]);
});

test("a machine that is stopped for a save is not silent, and has its whole deadline afterwards", async () => {
  const { clock, stuck, cleanup } = watcher();
  const session = sessionThat(() => new Promise(() => {}));
  const check = async (times: number) => {
    for (let turn = 0; turn < times; turn++) {
      cleanup.check([session]);
      await settled();
      await clock.advance(20_000);
    }
  };
  session.standsStill = true;
  await check(5);
  session.standsStill = false;
  await check(2);
  expect(stuck).toEqual([]);
  await check(1);
  expect(stuck).toEqual([session]);
});

test("an agent that answers something else is not pinged, and is given up once that stops", async () => {
  const { clock, stuck, cleanup } = watcher();
  const ping = vi.fn(() => new Promise<void>(() => {}));
  const session = sessionThat(ping);
  const check = async (answers: boolean) => {
    await clock.advance(timeoutMs / 4);
    if (answers) cleanup.heard(session);
    cleanup.check([session]);
  };
  for (let turn = 0; turn < 10; turn++) await check(true);
  expect([ping.mock.calls.length, stuck]).toEqual([0, []]);
  for (let turn = 0; turn < 3; turn++) await check(false);
  expect([ping.mock.calls.length, stuck]).toEqual([1, []]);
  await check(false);
  expect(stuck).toEqual([session]);
});

test("time during which the daemon itself stood still does not count as a machine's silence", async () => {
  const { clock, stuck, cleanup } = watcher();
  const answering = sessionThat(async () => {});
  const silent = sessionThat(() => new Promise(() => {}));
  const check = async (afterMs: number) => {
    await clock.advance(afterMs);
    cleanup.check([answering, silent]);
    await settled();
  };
  for (const afterMs of [0, 5_000, 3_600_000, 5_000]) await check(afterMs);
  expect(stuck).toEqual([]);
  for (let turn = 0; turn < 4; turn++) await check(5_000);
  expect(stuck).toEqual([silent]);
});

/** Checks a session every five seconds for a while. `each` is called before every check. */
async function watch(
  { clock, cleanup }: ReturnType<typeof watcher>,
  session: FakeSession,
  ms: number,
  each = () => {},
) {
  for (let passed = 0; passed < ms; passed += 5_000) {
    each();
    cleanup.check([session]);
    await settled();
    await clock.advance(5_000);
  }
}

test("any byte from the guest is a sign of life, although no ping is answered", async () => {
  const watched = watcher();
  const session = sessionThat(() => new Promise(() => {}));
  await watch(watched, session, 4 * timeoutMs, () => {
    session.receivedBytes = (session.receivedBytes ?? 0) + 1;
  });
  expect(watched.stuck).toEqual([]);
  await watch(watched, session, timeoutMs + 5_000);
  expect(watched.stuck).toEqual([session]);
});

test("a link that is being made is no sign of life", async () => {
  const watched = watcher();
  const session = sessionThat(() => Promise.reject(new Error("the link is being re-established")));
  session.receivedBytes = undefined;
  await watch(watched, session, timeoutMs + 5_000);
  expect(watched.stuck).toEqual([session]);
});

test("a machine that works is taken for busy, and is given up when that lasts", async () => {
  const watched = watcher();
  const session = sessionThat(() => new Promise(() => {}));
  session.cpuMs = 1_000;
  const work = () => {
    session.cpuMs = (session.cpuMs ?? 0) + 2_500;
  };
  await watch(watched, session, 5 * timeoutMs - 5_000, work);
  expect(watched.stuck).toEqual([]);
  await watch(watched, session, 10_000, work);
  expect(watched.stuck).toEqual([session]);
});

test("a session that was given up is given up again after another deadline, not at every check", async () => {
  const watched = watcher();
  const session = sessionThat(() => new Promise(() => {}));
  await watch(watched, session, 3 * timeoutMs + 10_000);
  expect(watched.stuck).toEqual([session, session, session]);
});
