/** Tests of pausing and resuming over the fake engine: every state, every failure, and the remains after each. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { getSandbox } from "../../../src/ledger/sandboxes.ts";
import { getSnapshot } from "../../../src/ledger/snapshots.ts";
import type { DrivenRuntime } from "../../../src/runtime/runtime.ts";
import { FakeDaemon, nothing, paused, running } from "../../support/fakes/fake-daemon.ts";
import { closedGate } from "../../support/fakes/gate.ts";

const failure = { error: new DomainError("machine_failed", "arranged by the test") };

test("a paused sandbox holds a snapshot and nothing else, and resumes as itself", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, clock } = daemon;
  const { record, accessToken } = await daemon.create({ metadata: { job: "a" } });
  const session = runtime.registry.session(record.id);
  await clock.advance(1_000);
  await daemon.pause(record.id, "exited");
  expect(session?.ended.reason).toMatchObject({ code: "not_found", message: "The sandbox was paused" });
  expect(await daemon.remains()).toEqual(paused);
  const view = runtime.registry.get(record.id);
  expect(view).toMatchObject({
    state: "paused",
    keptMemory: true,
    accessToken,
    record: { startedAtMs: record.startedAtMs },
  });
  expect(view.record.endAtMs).toBe(clock.nowMs());
  expect(getSnapshot(daemon.deps.ledger, view.record.snapshotId)).toMatchObject({ reason: "exited", state: "ready" });
  expect(runtime.registry.session(record.id)).toBeUndefined();
  expect(runtime.registry.sessionByAccessToken(accessToken)).toBeUndefined();
  expect(runtime.observations.metrics(record.id, {})).toEqual([]);
  await clock.advance(1e9);
  runtime.deadlines.expireDue();
  await daemon.settle();

  const { resumed, view: back } = await runtime.resumes.connect(record.id, 5_000);
  expect(resumed).toBe(true);
  expect(back).toMatchObject({ state: "running", accessToken, record: { metadata: { job: "a" } } });
  expect(back.record.endAtMs).toBe(clock.nowMs() + 5_000);
  expect(runtime.registry.sessionByAccessToken(accessToken)?.sandboxId).toBe(record.id);
  await daemon.settle();
  expect(await daemon.remains()).toEqual(running);
  await runtime.ends.kill(record.id);
  await daemon.settle();
  expect(await daemon.remains()).toEqual(nothing);
});

test("environment variables that a resume sets are kept, unless the resume fails", async () => {
  await using daemon = await FakeDaemon.open();
  const { id } = (await daemon.create({ envs: { TOKEN: "old", A: "1" } })).record;
  const envs = { TOKEN: "new" };
  await daemon.pause(id);
  daemon.host.arrange("restore", failure);
  await expect(daemon.runtime.resumes.resume(id, 60_000, { envs })).rejects.toBe(failure.error);
  expect(daemon.runtime.registry.get(id).record.envs).toEqual({ TOKEN: "old", A: "1" });
  await daemon.runtime.resumes.resume(id, 60_000, { envs });
  expect(daemon.guests.envs.at(-1)).toMatchObject({ E2B_SANDBOX_ID: id, TOKEN: "new", A: "1" });
  await daemon.restart();
  expect(daemon.runtime.registry.session(id)?.envs).toMatchObject({ TOKEN: "new", A: "1" });
});

test("an operation that does not fit the state is refused, and changes nothing", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime } = daemon;
  const { id } = (await daemon.create()).record;
  await expect(runtime.resumes.resume(id, 1)).rejects.toMatchObject({ code: "invalid_state" });
  await daemon.pause(id);
  await expect(runtime.pauses.pause(id, "stopped")).rejects.toMatchObject({ code: "invalid_state" });
  await expect(runtime.deadlines.set(id, 1)).rejects.toMatchObject({ code: "not_found" });
  await expect(runtime.deadlines.refresh(id, 1)).rejects.toMatchObject({ code: "not_found" });
  expect(await runtime.traffic.resumeForTraffic(id)).toBeUndefined();
  for (const attempt of [
    () => runtime.pauses.pause("ixx", "stopped"),
    () => runtime.resumes.resume("ixx", 1),
    () => runtime.resumes.connect("ixx", 1),
  ]) {
    await expect(attempt()).rejects.toMatchObject({ code: "not_found" });
  }
  expect(await daemon.remains()).toEqual(paused);
});

test("a guest that does not answer is not paused when an answer is required, nor without its memory", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, clock } = daemon;
  const { id } = (await daemon.create()).record;
  const agent = runtime.registry.session(id)?.agent;
  if (!agent) throw new Error("there is no session");
  for (const [method, options, failing] of [
    ["ping", { requireAnswer: true }, "its guest did not answer: nothing came in 5000 ms"],
    ["sync", { memory: false }, "its guest did not write its files to its disk: nothing came in 30000 ms"],
  ] as const) {
    const silent = vi.spyOn(agent, method).mockReturnValue(new Promise(() => {}));
    const refused = expect(runtime.pauses.pause(id, "stopped", options)).rejects.toMatchObject({
      code: "not_ready",
      message: `The sandbox was not paused: ${failing}`,
    });
    await expect.poll(() => silent.mock.calls.length).toBe(1);
    await clock.advance(30_000);
    await refused;
    silent.mockRestore();
    expect(await daemon.remains()).toEqual(running);
  }
  await daemon.pause(id, "stopped", { requireAnswer: true });
  expect(runtime.registry.get(id).state).toBe("paused");
});

test("a paused sandbox that is killed leaves nothing", async () => {
  await using daemon = await FakeDaemon.open();
  const { id } = (await daemon.create()).record;
  await daemon.pause(id);
  await daemon.runtime.ends.kill(id);
  expect(() => daemon.runtime.registry.get(id)).toThrow("doesn't exist");
  await expect(daemon.runtime.ends.kill(id)).rejects.toMatchObject({ code: "not_found" });
  await daemon.settle();
  expect(await daemon.remains()).toEqual(nothing);
  expect(getSandbox(daemon.deps.ledger, id)).toMatchObject({ state: "terminated", endReason: "killed" });
});

test.each([
  ["kill", (runtime, id) => runtime.ends.kill(id)],
  ["resume", (runtime, id) => runtime.resumes.resume(id, 1_000)],
] as const satisfies [string, (runtime: DrivenRuntime, id: string) => Promise<unknown>][])(
  "the files of a paused sandbox stay until power loss cannot bring it back: %s",
  async (_, leave) => {
    await using daemon = await FakeDaemon.open();
    const { runtime, deps } = daemon;
    const { id } = (await daemon.create()).record;
    await daemon.pause(id);
    const atSync: unknown[] = [];
    vi.spyOn(deps.ledger, "sync").mockImplementation(async () => void atSync.push(await daemon.remains()));
    await leave(runtime, id);
    await daemon.settle();
    expect(atSync).toMatchObject([{ snapshots: 0, snapshotFolders: 1 }]);
    expect(await daemon.remains()).toMatchObject({ snapshots: 0, snapshotFolders: 0 });
  },
);

test.each(["pause", "saveSnapshot"] as const)("when %s fails the sandbox goes on and is reachable", async (step) => {
  await using daemon = await FakeDaemon.open();
  const { runtime, host } = daemon;
  const { record } = await daemon.create();
  host.arrange(step, failure);
  await expect(runtime.pauses.pause(record.id, "stopped")).rejects.toBe(failure.error);
  expect(runtime.registry.get(record.id)).toMatchObject({ state: "running", record: { endAtMs: record.endAtMs } });
  await runtime.registry.session(record.id)?.agent.ping();
  await daemon.settle();
  expect(await daemon.remains()).toEqual(running);
  await daemon.pause(record.id);
  expect(await daemon.remains()).toEqual(paused);
});

test("when the machine dies during the save the sandbox leaves, and nothing remains", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, host } = daemon;
  const { id } = (await daemon.create()).record;
  host.arrange("saveSnapshot", { ...failure, act: () => crashAll(daemon) });
  await expect(runtime.pauses.pause(id, "stopped")).rejects.toBe(failure.error);
  expect(() => runtime.registry.get(id)).toThrow("doesn't exist");
  await daemon.settle();
  expect(await daemon.remains()).toEqual(nothing);
  expect(getSandbox(daemon.deps.ledger, id)).toMatchObject({ endReason: "machine_died" });
});

const late = { error: new DomainError("deadline_exceeded", "the engine did not answer") };
const crashAll = ({ host }: FakeDaemon) => {
  for (const sessionId of [...host.machines.keys()]) host.crash(sessionId);
};
/** Pauses a sandbox whose machine does not answer, until it is asked for the time after `tries` times. */
async function stall(daemon: FakeDaemon, tries: number): Promise<string> {
  const { id } = (await daemon.create()).record;
  daemon.host.arrange("pause", ...Array.from({ length: tries }, () => late));
  await expect(daemon.runtime.pauses.pause(id, "stopped")).rejects.toMatchObject({
    code: "deadline_exceeded",
    message: "The sandbox's machine does not answer, and the sandbox is paused once it does: the engine did not answer",
  });
  return id;
}

test("a machine that does not answer a pause is asked until it does, and nothing is lost", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, host } = daemon;
  const id = await stall(daemon, 4);
  expect([daemon.stateOf(id), runtime.registry.get(id).state]).toEqual(["pausing", "paused"]);
  for (const attempt of [
    () => runtime.resumes.connect(id, 1_000),
    () => runtime.resumes.resume(id, 1_000),
    () => runtime.pauses.pause(id, "stopped"),
    () => runtime.forks.followUp(id, { timeoutMs: 1_000 }),
  ]) {
    await expect(attempt()).rejects.toMatchObject({ code: "not_ready" });
  }
  await expect.poll(() => daemon.stateOf(id)).toBe("paused");
  expect(host.calls.filter((step) => step === "resume")).toEqual([]);
  await daemon.settle();
  expect(await daemon.remains()).toEqual(paused);
  expect((await runtime.resumes.connect(id, 1_000)).resumed).toBe(true);
});

test("a sandbox whose pause stalls can be killed, and leaves when its machine dies", async () => {
  for (const [end, endReason] of [
    [(daemon, id) => daemon.runtime.ends.kill(id), "killed"],
    [crashAll, "machine_died"],
  ] as const satisfies [(daemon: FakeDaemon, id: string) => unknown, string][]) {
    await using daemon = await FakeDaemon.open();
    const id = await stall(daemon, 1_000);
    await end(daemon, id);
    await expect.poll(() => daemon.stateOf(id)).toBe("terminated");
    await daemon.settle();
    expect(await daemon.remains()).toEqual(nothing);
    expect(getSandbox(daemon.deps.ledger, id)).toMatchObject({ endReason });
  }
});

test("a daemon that stops while a pause stalls lets go of the machine, and the next one goes on with it", async () => {
  await using daemon = await FakeDaemon.open();
  const id = await stall(daemon, 1_000);
  await daemon.runtime.close();
  daemon.host.forget("pause");
  await daemon.start();
  expect(daemon.runtime.registry.get(id).state).toBe("running");
  await daemon.settle();
  expect(await daemon.remains()).toEqual(running);
});

test("a machine that does not go on after a failed save is saved once it answers", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, host } = daemon;
  const { id } = (await daemon.create()).record;
  host.arrange("saveSnapshot", failure);
  host.arrange("resume", late);
  await expect(runtime.pauses.pause(id, "stopped")).rejects.toMatchObject({ code: "deadline_exceeded" });
  await expect.poll(() => daemon.stateOf(id)).toBe("paused");
  await daemon.settle();
  expect(await daemon.remains()).toEqual(paused);
});

test("an agent that does not answer after a failed pause costs nothing", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, host } = daemon;
  const { id } = (await daemon.create()).record;
  host.arrange("saveSnapshot", failure);
  host.arrange("openGuestLink", failure, failure);
  await expect(runtime.pauses.pause(id, "stopped")).rejects.toBe(failure.error);
  expect(runtime.registry.get(id).state).toBe("running");
  await expect
    .poll(async () =>
      runtime.registry
        .session(id)
        ?.agent.ping()
        .then(() => "answers"),
    )
    .toBe("answers");
});

test("a silent guest whose machine lives is given up by a pause", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, clock } = daemon;
  const { id } = (await daemon.create()).record;
  daemon.guests.isSilent = true;
  for (let passed = 0; passed <= 65_000; passed += 5_000) {
    runtime.checkHeartbeats();
    await clock.advance(5_000);
  }
  await expect.poll(() => daemon.stateOf(id)).toBe("paused");
  await daemon.settle();
  expect(await daemon.remains()).toEqual(paused);
  const log = runtime.observations.logs(id, { search: "", order: "asc", limit: 100 });
  expect(log).toContainEqual(
    expect.objectContaining({ level: "error", fields: expect.objectContaining({ event: "given_up" }) }),
  );
});

test.each(["restore", "openGuestLink"] as const)(
  "when %s fails a paused sandbox stays paused and whole",
  async (step) => {
    await using daemon = await FakeDaemon.open();
    const { runtime, host } = daemon;
    const { record } = await daemon.create();
    await daemon.pause(record.id);
    const before = runtime.registry.get(record.id);
    host.arrange(step, failure);
    await expect(runtime.resumes.connect(record.id, 1_000)).rejects.toBe(failure.error);
    expect(runtime.registry.get(record.id)).toEqual(before);
    expect(await daemon.remains()).toEqual(paused);
    expect((await runtime.resumes.connect(record.id, 1_000)).resumed).toBe(true);
  },
);

test("a paused sandbox releases its capacity, and may find none when it is resumed", async () => {
  await using daemon = await FakeDaemon.open({ budgets: { sandboxes: 1 } });
  const { runtime } = daemon;
  const { id: first } = (await daemon.create()).record;
  await expect(daemon.create()).rejects.toMatchObject({ code: "capacity_exhausted" });
  await daemon.pause(first);
  const { id: second } = (await daemon.create()).record;
  await expect(runtime.resumes.connect(first, 1_000)).rejects.toMatchObject({ code: "capacity_exhausted" });
  expect(runtime.registry.get(first).state).toBe("paused");
  await daemon.pause(second);
  expect((await runtime.resumes.connect(first, 1_000)).resumed).toBe(true);
});

test("under disk pressure neither a pause nor a resume begins, and running sandboxes go on", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime } = daemon;
  const { id } = (await daemon.create()).record;
  daemon.disk.freeBytes = 1;
  await expect(runtime.pauses.pause(id, "stopped")).rejects.toMatchObject({ code: "disk_pressure" });
  await runtime.registry.session(id)?.agent.ping();
  daemon.disk.freeBytes = 1e12;
  await daemon.pause(id);
  daemon.disk.freeBytes = 1;
  await expect(runtime.resumes.resume(id, 1_000)).rejects.toMatchObject({ code: "disk_pressure" });
  expect(await daemon.remains()).toEqual(paused);
});

test("a sandbox with that option is paused at its deadline, and later when that fails", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, clock } = daemon;
  const lifecycle = { onTimeout: "pause", keepMemory: true, autoResume: false } as const;
  const { id } = (await daemon.create({ lifecycle })).record;
  const { id: mortal } = (await daemon.create()).record;
  daemon.disk.freeBytes = 1;
  await clock.advance(60_000);
  runtime.deadlines.expireDue();
  await daemon.settle();
  expect(runtime.registry.get(id)).toMatchObject({ state: "running", record: { endAtMs: clock.nowMs() + 10_000 } });
  expect(() => runtime.registry.get(mortal)).toThrow("doesn't exist");
  daemon.disk.freeBytes = 1e12;
  await clock.advance(10_000);
  runtime.deadlines.expireDue();
  runtime.deadlines.expireDue();
  await daemon.settle();
  const { state, record } = runtime.registry.get(id);
  expect(state).toBe("paused");
  expect(getSnapshot(daemon.deps.ledger, record.snapshotId)?.reason).toBe("idle");
  expect(await daemon.remains()).toEqual(paused);
});

test("traffic resumes a sandbox with that option once, for at least five minutes", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, clock, host } = daemon;
  const { id } = (await daemon.create({ lifecycle: { onTimeout: "pause", keepMemory: true, autoResume: true } }))
    .record;
  await daemon.pause(id);
  expect([...runtime.traffic.resumableByTraffic()].map(({ record }) => record.id)).toEqual([id]);
  const sessions = await Promise.all([1, 2, 3].map(() => runtime.traffic.resumeForTraffic(id)));
  expect(new Set(sessions).size).toBe(1);
  expect(sessions[0]?.sandboxId).toBe(id);
  expect(host.calls.filter((step) => step === "restore").length).toBe(2);
  expect(runtime.registry.get(id).record.endAtMs).toBe(clock.nowMs() + 300_000);
  expect([...runtime.traffic.resumableByTraffic()]).toEqual([]);
});

test("traffic for a sandbox that is being paused waits until it can be resumed", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, host } = daemon;
  const lifecycle = { onTimeout: "pause", keepMemory: true, autoResume: true } as const;
  const { id } = (await daemon.create({ lifecycle })).record;
  const gate = closedGate();
  host.arrange("saveSnapshot", { gate: gate.opened });
  const pausing = runtime.pauses.pause(id, "stopped");
  await expect.poll(() => daemon.stateOf(id)).toBe("pausing");
  expect(runtime.registry.get(id).keptMemory).toBeUndefined();
  expect([...runtime.traffic.resumableByTraffic()].map(({ record }) => record.id)).toEqual([id]);
  const resuming = runtime.traffic.resumeForTraffic(id);
  gate.open();
  expect((await resuming)?.sandboxId).toBe(id);
  await pausing;
});

test("50 clients pause, resume, connect and kill the same sandboxes: all answers are documented, and nothing remains", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, host } = daemon;
  const documented = new Set(["done", "not_found", "invalid_state"]);
  const answers = new Map<string, number>();
  const attempt = async (action: () => Promise<unknown>) => {
    const answer = await action().then(
      () => "done",
      (error: unknown) => (error instanceof DomainError ? error.code : String(error)),
    );
    answers.set(answer, (answers.get(answer) ?? 0) + 1);
  };
  const ids = (await Promise.all([1, 2, 3, 4, 5].map(() => daemon.create()))).map(({ record }) => record.id);
  const slow = Array.from({ length: 200 }, (_, at) => ({ delayMs: at % 4 }));
  for (const step of ["saveSnapshot", "terminate", "restore"] as const) host.arrange(step, ...slow);
  const actions: ((id: string) => Promise<unknown>)[] = [
    (id) => runtime.pauses.pause(id, "stopped"),
    (id) => runtime.resumes.resume(id, 60_000),
    (id) => runtime.resumes.connect(id, 60_000),
    (id) => runtime.deadlines.set(id, 90_000),
    async (id) => void runtime.registry.get(id),
    async (id) =>
      runtime.registry
        .session(id)
        ?.agent.ping()
        .catch(() => {}),
  ];
  await Promise.all(
    Array.from({ length: 50 }, async (_, client) => {
      for (let round = 0; round < 12; round++) {
        const id = ids[(client + round) % ids.length] ?? "";
        const action = actions[(client * 7 + round * 5) % actions.length];
        if (action) await attempt(() => action(id));
        if (client === 0 && round === 10) await attempt(() => runtime.ends.kill(ids[0] ?? ""));
      }
    }),
  );
  expect([...answers.keys()].filter((answer) => !documented.has(answer))).toEqual([]);
  expect(answers.get("done")).toBeGreaterThan(100);
  await Promise.all(ids.map((id) => attempt(() => runtime.ends.kill(id))));
  await daemon.settle();
  expect(await daemon.remains()).toEqual(nothing);
  expect(host.openLinks).toBe(0);
  expect(await readdir(join(daemon.folder, "machines"))).toEqual([]);
});

test("a sandbox without its memory keeps its disk, boots when it is resumed, and is never resumed by traffic", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime } = daemon;
  const lifecycle = { onTimeout: "kill", keepMemory: true, autoResume: true } as const;
  const { id } = (await daemon.create({ lifecycle })).record;
  await daemon.pause(id, "stopped", { memory: false });
  expect(runtime.registry.get(id)).toMatchObject({ state: "paused", keptMemory: false });
  const { folder, facts } = getSnapshot(daemon.deps.ledger, runtime.registry.get(id).record.snapshotId) ?? {};
  expect((await readdir(folder ?? "")).sort()).toEqual(["disk", "manifest.json", "sandbox.json"]);
  expect(facts?.memoryBytes).toBe(0);
  expect([...runtime.traffic.resumableByTraffic()]).toEqual([]);
  expect(await runtime.traffic.resumeForTraffic(id)).toBeUndefined();
  await daemon.restart();
  daemon.host.arrange("restore", failure);
  expect(await runtimeConnect(daemon, id)).toBe("running");
  await daemon.settle();
  expect(await daemon.remains()).toEqual(running);
});

test("a sandbox that was paused with its memory boots when the client asks for that", async () => {
  await using daemon = await FakeDaemon.open();
  const { id } = (await daemon.create()).record;
  await daemon.pause(id);
  daemon.host.arrange("boot", failure);
  await expect(daemon.runtime.resumes.resume(id, 1_000, { memory: false })).rejects.toThrow("arranged by the test");
  expect(daemon.runtime.registry.get(id).state).toBe("paused");
  expect(await daemon.remains()).toEqual(paused);
  daemon.host.arrange("restore", failure);
  expect((await daemon.runtime.resumes.resume(id, 1_000, { memory: false })).state).toBe("running");
});

test("at its deadline a sandbox is paused without its memory as its client asked, and follow-ups boot too", async () => {
  await using daemon = await FakeDaemon.open();
  const lifecycle = { onTimeout: "pause", keepMemory: false, autoResume: false } as const;
  const { id } = (await daemon.create({ lifecycle, timeoutMs: 1_000 })).record;
  await daemon.clock.advance(2_000);
  daemon.runtime.deadlines.expireDue();
  await daemon.settle();
  const { state, record } = daemon.runtime.registry.get(id);
  expect([state, getSnapshot(daemon.deps.ledger, record.snapshotId)?.facts?.memoryBytes]).toEqual(["paused", 0]);
  daemon.host.arrange("restore", failure);
  expect((await daemon.runtime.forks.followUp(id, { timeoutMs: 1_000 })).reason).toBe("idle");
});

async function runtimeConnect({ runtime }: FakeDaemon, id: string): Promise<string> {
  return (await runtime.resumes.connect(id, 1_000)).view.state;
}
