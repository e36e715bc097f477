/**
 * Tests of pausing on a host that saves nothing at the moment: the machine stands still, and no client gets an error.
 */
import { expect, test } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { findContinuationInMaking } from "../../../src/ledger/snapshots.ts";
import { FakeDaemon, nothing, paused, running } from "../../support/fakes/fake-daemon.ts";

const locked = { error: new DomainError("not_ready", "nothing can be saved: the screen is locked") };
const failure = { error: new DomainError("machine_failed", "arranged by the test") };
/** The capacity is held, and the snapshot to be made is registered. */
const pausedInMemory = { ...running, links: 0, snapshots: 1 };

/** Opens a daemon with one sandbox that was paused while the screen was locked. */
async function openLocked(options: Parameters<FakeDaemon["create"]>[0] = {}) {
  const daemon = await FakeDaemon.open();
  const { record, accessToken } = await daemon.create(options);
  daemon.host.arrange("saveSnapshot", locked);
  await daemon.pause(record.id, "exited");
  return { daemon, id: record.id, accessToken };
}

const save = (daemon: FakeDaemon) => daemon.runtime.inMemory.saveAll(new AbortController().signal);
const logOf = (daemon: FakeDaemon, id: string) =>
  daemon.runtime.observations.logs(id, { search: "", order: "asc", limit: 100 }).map(({ message }) => message);
const machineAt = ({ host }: FakeDaemon) => [...host.machines.values()].map(({ at }) => at);

test("the sandbox is paused for its client, keeps its capacity, logs why, and resumes at once without a restore", async () => {
  const { daemon, id, accessToken } = await openLocked();
  await using _ = daemon;
  const { runtime, host, clock } = daemon;
  expect(daemon.stateOf(id)).toBe("paused_in_memory");
  expect(runtime.registry.get(id)).toMatchObject({ state: "paused", keptMemory: true, accessToken });
  expect(runtime.registry.session(id)).toBeUndefined();
  expect(machineAt(daemon)).toEqual(["paused"]);
  expect(await daemon.remains()).toEqual(pausedInMemory);
  expect(runtime.capacity()).toMatchObject({ pausedInMemory: 1, budgets: { sandboxes: { active: 1 } } });
  expect(logOf(daemon, id).at(-1)).toContain("paused in memory, which a restart of the host loses");
  await expect(runtime.pauses.pause(id, "stopped")).rejects.toMatchObject({ code: "invalid_state" });

  const before = host.calls.filter((step) => step === "restore").length;
  const { resumed, view } = await runtime.resumes.connect(id, 5_000);
  expect(resumed).toBe(true);
  expect(view).toMatchObject({ state: "running", accessToken, record: { endAtMs: clock.nowMs() + 5_000 } });
  expect(host.calls.filter((step) => step === "restore")).toHaveLength(before);
  await runtime.registry.session(id)?.agent.ping();
  await daemon.settle();
  expect(await daemon.remains()).toEqual(running);
  await daemon.pause(id);
  expect(await daemon.remains()).toEqual(paused);
});

test("the sandbox is saved as soon as the host can, and is paused like any other then, since the same time", async () => {
  const { daemon, id } = await openLocked();
  await using _ = daemon;
  const { runtime, host, clock } = daemon;
  const { endAtMs } = runtime.registry.get(id).record;
  host.arrange("saveSnapshot", locked, failure);
  await save(daemon);
  await save(daemon);
  expect(await daemon.remains()).toEqual(pausedInMemory);
  await clock.advance(60_000);
  await save(daemon);
  expect(daemon.stateOf(id)).toBe("paused");
  expect(runtime.registry.get(id)).toMatchObject({ state: "paused", keptMemory: true, record: { endAtMs } });
  await daemon.settle();
  expect(await daemon.remains()).toEqual(paused);
  await save(daemon);
  expect((await runtime.resumes.connect(id, 5_000)).resumed).toBe(true);
});

test("on a full disk the sandbox stays paused in memory until there is room", async () => {
  const { daemon, id } = await openLocked();
  await using _ = daemon;
  daemon.disk.freeBytes = 0;
  await save(daemon);
  expect(daemon.stateOf(id)).toBe("paused_in_memory");
  daemon.disk.freeBytes = 1e12;
  await save(daemon);
  expect(daemon.stateOf(id)).toBe("paused");
});

test("a deadline pauses a sandbox in memory too, and a request resumes it", async () => {
  await using daemon = await FakeDaemon.open();
  const lifecycle = { onTimeout: "pause", keepMemory: true, autoResume: true } as const;
  const { id } = (await daemon.create({ lifecycle, timeoutMs: 1_000 })).record;
  daemon.host.arrange("saveSnapshot", locked);
  await daemon.clock.advance(2_000);
  daemon.runtime.deadlines.expireDue();
  await daemon.settle();
  expect(daemon.stateOf(id)).toBe("paused_in_memory");
  expect([...daemon.runtime.traffic.resumableByTraffic()].map(({ record }) => record.id)).toEqual([id]);
  expect(await daemon.runtime.traffic.resumeForTraffic(id)).toBeDefined();
  expect(daemon.stateOf(id)).toBe("running");
});

test.each(["kill", "stop"] as const)("%s leaves nothing of the sandbox", async (how) => {
  const { daemon, id } = await openLocked();
  await using _ = daemon;
  if (how === "kill") await daemon.runtime.ends.kill(id);
  else await daemon.runtime.ends.stop(id, 1_000);
  expect(() => daemon.runtime.registry.get(id)).toThrow("doesn't exist");
  await daemon.settle();
  expect(await daemon.remains()).toEqual(nothing);
});

test.each(["resume", "openGuestLink"] as const)(
  "when %s fails the sandbox stays paused, and can be resumed later",
  async (step) => {
    const { daemon, id } = await openLocked();
    await using _ = daemon;
    daemon.host.arrange(step, failure);
    await expect(daemon.runtime.resumes.resume(id, 1_000)).rejects.toBe(failure.error);
    expect(daemon.runtime.registry.get(id).state).toBe("paused");
    expect(machineAt(daemon)).toEqual(["paused"]);
    expect(await daemon.remains()).toEqual(pausedInMemory);
    await daemon.runtime.resumes.resume(id, 1_000);
    expect(daemon.runtime.registry.get(id).state).toBe("running");
  },
);

test("a resume without memory saves the sandbox first, and boots it", async () => {
  const { daemon, id } = await openLocked();
  await using _ = daemon;
  const boots = () => daemon.host.calls.filter((step) => step === "boot").length;
  const before = boots();
  await daemon.runtime.resumes.resume(id, 1_000, { memory: false });
  expect(boots()).toBe(before + 1);
  await daemon.settle();
  expect(await daemon.remains()).toEqual(running);
});

test("a follow-up is refused with the reason, and made once the pause is saved", async () => {
  const { daemon, id } = await openLocked();
  await using _ = daemon;
  daemon.host.arrange("saveSnapshot", locked);
  await expect(daemon.runtime.forks.followUp(id, { timeoutMs: 1_000 })).rejects.toBe(locked.error);
  expect(daemon.stateOf(id)).toBe("paused_in_memory");
  expect(await daemon.runtime.forks.followUp(id, { timeoutMs: 1_000 })).toMatchObject({ reason: "exited" });
  expect(daemon.stateOf(id)).toBe("paused");
});

test("when its machine dies the sandbox is gone, and its log says that it was not saved", async () => {
  const { daemon, id } = await openLocked();
  await using _ = daemon;
  const sessionId = daemon.runtime.registry.get(id).record.machine?.sessionId ?? "";
  daemon.host.crash(sessionId);
  await expect.poll(() => daemon.stateOf(id)).toBe("terminated");
  await daemon.settle();
  expect(await daemon.remains()).toEqual(nothing);
  expect(logOf(daemon, id).join("\n")).toContain("machine died before it could be saved");
});

test("the next daemon adopts the sandbox as it is, even if its machine was just resumed", async () => {
  const { daemon, id } = await openLocked();
  await using _ = daemon;
  await daemon.restart(async () => {
    for (const machine of daemon.host.machines.values()) machine.enter("running");
  });
  expect(daemon.runtime.registry.get(id)).toMatchObject({ state: "paused", keptMemory: true });
  expect(machineAt(daemon)).toEqual(["paused"]);
  expect(await daemon.remains()).toEqual(pausedInMemory);
  await save(daemon);
  await daemon.settle();
  expect(await daemon.remains()).toEqual(paused);
});

test("a save that was complete when the daemon died is finished by the next one", async () => {
  const { daemon, id } = await openLocked();
  await using _ = daemon;
  const { deps, runtime } = daemon;
  const { machine, endAtMs } = runtime.registry.get(id).record;
  await daemon.restart(async () => {
    const vm = machine && (await deps.driver.adopt(machine));
    const folder = findContinuationInMaking(deps.ledger, id)?.folder;
    await vm?.saveSnapshot(folder ?? "", { bootId: "boot", isLast: true });
  });
  expect(daemon.runtime.registry.get(id)).toMatchObject({ state: "paused", record: { machine: null, endAtMs } });
  expect(await daemon.remains()).toEqual(paused);
});

test("a restart of the host loses the sandbox, and its log says so", async () => {
  const { daemon, id } = await openLocked();
  await using _ = daemon;
  const sessionId = daemon.runtime.registry.get(id).record.machine?.sessionId ?? "";
  await daemon.restart(() => daemon.host.crash(sessionId));
  expect(() => daemon.runtime.registry.get(id)).toThrow("doesn't exist");
  expect(await daemon.remains()).toEqual(nothing);
  expect(logOf(daemon, id).at(-2)).toContain("paused in memory only");
});
