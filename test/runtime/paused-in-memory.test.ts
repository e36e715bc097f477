/** Pausing on a host that saves nothing at the moment: the machine stands still, and nobody gets an error for it. */
import { expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { findContinuationInMaking } from "../../src/ledger/snapshots.ts";
import { FakeEngine, nothing, paused, running } from "../support/fake-engine.ts";

const locked = { error: new DomainError("not_ready", "nothing can be saved: the screen is locked") };
const failure = { error: new DomainError("machine_failed", "arranged by the test") };
/** The capacity stays, and so does the name of the snapshot to be made. */
const pausedInMemory = { ...running, snapshots: 1 };

/** With one sandbox that was paused while the screen was locked. */
async function openLocked(options: Parameters<FakeEngine["create"]>[0] = {}) {
  const engine = await FakeEngine.open();
  const { record, accessToken } = await engine.create(options);
  engine.host.arrange("saveSnapshot", locked);
  await engine.runtime.pauseSandbox(record.id, "exited");
  return { engine, id: record.id, accessToken };
}

const save = (engine: FakeEngine) => engine.runtime.savePaused(new AbortController().signal);
const logOf = (engine: FakeEngine, id: string) =>
  engine.runtime.sandboxLogs(id, { search: "", order: "asc", limit: 100 }).map(({ message }) => message);
const machineAt = ({ host }: FakeEngine) => [...host.machines.values()].map(({ at }) => at);

test("it is paused for its client, keeps its capacity, says why, and is back at once without a restore", async () => {
  const { engine, id, accessToken } = await openLocked();
  await using _ = engine;
  const { runtime, host, clock } = engine;
  expect(engine.stateOf(id)).toBe("paused_in_memory");
  expect(runtime.getSandbox(id)).toMatchObject({ state: "paused", keptMemory: true, accessToken });
  expect(runtime.findSession(id)).toBeUndefined();
  expect(machineAt(engine)).toEqual(["paused"]);
  expect(await engine.remains()).toEqual(pausedInMemory);
  expect(runtime.capacity()).toMatchObject({ pausedInMemory: 1, budgets: { sandboxes: { active: 1 } } });
  expect(logOf(engine, id).at(-1)).toContain("paused in memory, which a restart of the host loses");
  await expect(runtime.pauseSandbox(id, "stopped")).rejects.toMatchObject({ code: "invalid_state" });

  const before = host.calls.filter((step) => step === "restore").length;
  const { resumed, view } = await runtime.connectSandbox(id, 5_000);
  expect(resumed).toBe(true);
  expect(view).toMatchObject({ state: "running", accessToken, record: { endAtMs: clock.nowMs() + 5_000 } });
  expect(host.calls.filter((step) => step === "restore")).toHaveLength(before);
  await runtime.findSession(id)?.agent.ping();
  await engine.settle();
  expect(await engine.remains()).toEqual(running);
  await runtime.pauseSandbox(id, "stopped");
  expect(await engine.remains()).toEqual(paused);
});

test("it is saved as soon as that can be, and then it is paused like any other, since when it was", async () => {
  const { engine, id } = await openLocked();
  await using _ = engine;
  const { runtime, host, clock } = engine;
  const { endAtMs } = runtime.getSandbox(id).record;
  host.arrange("saveSnapshot", locked, failure);
  await save(engine);
  await save(engine);
  expect(await engine.remains()).toEqual(pausedInMemory);
  await clock.advance(60_000);
  await save(engine);
  expect(engine.stateOf(id)).toBe("paused");
  expect(runtime.getSandbox(id)).toMatchObject({ state: "paused", keptMemory: true, record: { endAtMs } });
  expect(await engine.remains()).toEqual(paused);
  await save(engine);
  expect((await runtime.connectSandbox(id, 5_000)).resumed).toBe(true);
});

test("a full disk is no reason to fail: it stays in memory until there is room", async () => {
  const { engine, id } = await openLocked();
  await using _ = engine;
  engine.freeBytes = 0;
  await save(engine);
  expect(engine.stateOf(id)).toBe("paused_in_memory");
  engine.freeBytes = 1e12;
  await save(engine);
  expect(engine.stateOf(id)).toBe("paused");
});

test("its time being up pauses it in memory too, and a request wakes it", async () => {
  await using engine = await FakeEngine.open();
  const lifecycle = { onTimeout: "pause", keepMemory: true, autoResume: true } as const;
  const { id } = (await engine.create({ lifecycle, timeoutMs: 1_000 })).record;
  engine.host.arrange("saveSnapshot", locked);
  await engine.clock.advance(2_000);
  engine.runtime.expireSandboxes();
  await engine.settle();
  expect(engine.stateOf(id)).toBe("paused_in_memory");
  expect([...engine.runtime.resumableByTraffic()].map(({ record }) => record.id)).toEqual([id]);
  expect(await engine.runtime.resumeForTraffic(id)).toBeDefined();
  expect(engine.stateOf(id)).toBe("running");
});

test.each(["kill", "stop"] as const)("%s leaves nothing of it", async (how) => {
  const { engine, id } = await openLocked();
  await using _ = engine;
  if (how === "kill") await engine.runtime.killSandbox(id);
  else await engine.runtime.stopSandbox(id, 1_000);
  expect(() => engine.runtime.getSandbox(id)).toThrow("doesn't exist");
  await engine.settle();
  expect(await engine.remains()).toEqual(nothing);
});

test.each(["resume", "openGuestLink"] as const)(
  "when %s fails it stays paused, and can be tried again",
  async (step) => {
    const { engine, id } = await openLocked();
    await using _ = engine;
    engine.host.arrange(step, failure);
    await expect(engine.runtime.resumeSandbox(id, 1_000)).rejects.toBe(failure.error);
    expect(engine.runtime.getSandbox(id).state).toBe("paused");
    expect(machineAt(engine)).toEqual(["paused"]);
    expect(await engine.remains()).toEqual(pausedInMemory);
    await engine.runtime.resumeSandbox(id, 1_000);
    expect(engine.runtime.getSandbox(id).state).toBe("running");
  },
);

test("without its memory it is saved first, and boots", async () => {
  const { engine, id } = await openLocked();
  await using _ = engine;
  const boots = () => engine.host.calls.filter((step) => step === "boot").length;
  const before = boots();
  await engine.runtime.resumeSandbox(id, 1_000, { memory: false });
  expect(boots()).toBe(before + 1);
  await engine.settle();
  expect(await engine.remains()).toEqual(running);
});

test("a follow-up waits for nobody: it is refused with the reason, and made once the pause is saved", async () => {
  const { engine, id } = await openLocked();
  await using _ = engine;
  engine.host.arrange("saveSnapshot", locked);
  await expect(engine.runtime.followUpSandbox(id, { timeoutMs: 1_000 })).rejects.toBe(locked.error);
  expect(engine.stateOf(id)).toBe("paused_in_memory");
  expect(await engine.runtime.followUpSandbox(id, { timeoutMs: 1_000 })).toMatchObject({ reason: "exited" });
  expect(engine.stateOf(id)).toBe("paused");
});

test("when its machine dies it is gone, and its log says that it was not saved", async () => {
  const { engine, id } = await openLocked();
  await using _ = engine;
  const sessionId = engine.runtime.getSandbox(id).record.machine?.sessionId ?? "";
  engine.host.crash(sessionId);
  await expect.poll(() => engine.stateOf(id)).toBe("terminated");
  await engine.settle();
  expect(await engine.remains()).toEqual(nothing);
  expect(logOf(engine, id).join("\n")).toContain("Its machine died before it could be saved");
});

test("the next daemon takes it over where it is, even if it was just let go", async () => {
  const { engine, id } = await openLocked();
  await using _ = engine;
  await engine.restart(async () => {
    for (const machine of engine.host.machines.values()) machine.enter("running");
  });
  expect(engine.runtime.getSandbox(id)).toMatchObject({ state: "paused", keptMemory: true });
  expect(machineAt(engine)).toEqual(["paused"]);
  expect(await engine.remains()).toEqual(pausedInMemory);
  await save(engine);
  expect(await engine.remains()).toEqual(paused);
});

test("a save that was complete when the daemon died is finished by the next one", async () => {
  const { engine, id } = await openLocked();
  await using _ = engine;
  const { deps, runtime } = engine;
  const { machine, endAtMs } = runtime.getSandbox(id).record;
  await engine.restart(async () => {
    const vm = machine && (await deps.driver.adopt(machine));
    const folder = findContinuationInMaking(deps.ledger, id)?.folder;
    await vm?.saveSnapshot(folder ?? "", { bootId: "boot", isLast: true });
  });
  expect(engine.runtime.getSandbox(id)).toMatchObject({ state: "paused", record: { machine: null, endAtMs } });
  expect(await engine.remains()).toEqual(paused);
});

test("a host that was restarted has lost it, and says so", async () => {
  const { engine, id } = await openLocked();
  await using _ = engine;
  const sessionId = engine.runtime.getSandbox(id).record.machine?.sessionId ?? "";
  await engine.restart(() => engine.host.crash(sessionId));
  expect(() => engine.runtime.getSandbox(id)).toThrow("doesn't exist");
  expect(await engine.remains()).toEqual(nothing);
  expect(logOf(engine, id).at(-1)).toContain("paused in memory only");
});
