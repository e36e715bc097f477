/** Tests of forks, snapshots and follow-ups over the fake engine: their results, their failures and their remains. */
import { expect, test, vi } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { LiveSession } from "../../../src/runtime/sessions/live-session.ts";
import { FakeDaemon, nothing, paused, running } from "../../support/fakes/fake-daemon.ts";

const failure = { error: new DomainError("machine_failed", "arranged by the test") };
const nameOf = (name: string, tag?: string) => ({ name, tag });

test("children of a fork run beside their source, each with an id of its own, and the moment they share is gone", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, clock } = daemon;
  const { record } = await daemon.create({ metadata: { job: "a" }, envs: { A: "1" } });
  const outcomes = await runtime.forks.fork(record.id, { count: 5, timeoutMs: 5_000 });
  const children = outcomes.flatMap((outcome) => ("view" in outcome ? [outcome.view] : []));
  expect(new Set([record.id, ...children.map((child) => child.record.id)]).size).toBe(6);
  for (const { record: child, state } of children) {
    expect(child).toMatchObject({ metadata: { job: "a" }, envs: { A: "1" }, templateId: record.templateId });
    expect([state, child.endAtMs]).toEqual(["running", clock.nowMs() + 5_000]);
    await runtime.registry.session(child.id)?.agent.ping();
  }
  expect(runtime.registry.get(record.id).record).toEqual(record);
  await runtime.registry.session(record.id)?.agent.ping();
  await daemon.settle();
  expect(await daemon.remains()).toEqual({ ...nothing, machines: 6, machineFolders: 6, links: 6, reservations: 6 });
});

test("a child of a fork that fails does not affect the others", async () => {
  await using daemon = await FakeDaemon.open({ budgets: { sandboxes: 4 } });
  const { id } = (await daemon.create()).record;
  await daemon.create();
  daemon.host.arrange("restore", failure);
  const outcomes = await daemon.runtime.forks.fork(id, { count: 3, timeoutMs: 5_000 });
  expect(outcomes.map((outcome) => ("error" in outcome ? (outcome.error as DomainError).code : "view")).sort()).toEqual(
    ["capacity_exhausted", "machine_failed", "view"],
  );
  await daemon.settle();
  expect(await daemon.remains()).toEqual({ ...nothing, machines: 3, machineFolders: 3, links: 3, reservations: 3 });
  await expect(daemon.runtime.forks.fork(id, { count: 4, timeoutMs: 1 })).rejects.toMatchObject({
    code: "invalid_argument",
  });
});

test.each(["pause", "saveSnapshot"] as const)("when %s fails there is no fork and the source goes on", async (step) => {
  await using daemon = await FakeDaemon.open();
  const { runtime, host } = daemon;
  const { id } = (await daemon.create()).record;
  const session = runtime.registry.session(id);
  host.arrange(step, failure, failure);
  await expect(runtime.forks.fork(id, { count: 1, timeoutMs: 1_000 })).rejects.toBe(failure.error);
  await expect(runtime.snapshots.take(id)).rejects.toBe(failure.error);
  expect(runtime.registry.session(id)).toBe(session);
  await session?.agent.ping();
  expect(await daemon.remains()).toEqual(running);
});

test("the session of a source is stopped during the save, and only then", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, deps } = daemon;
  const { id } = (await daemon.create()).record;
  const session = runtime.registry.session(id);
  if (!(session instanceof LiveSession)) throw new Error("no session");
  const { vm } = session;
  const seen = [session.isStopped];
  const resume = vm.resume.bind(vm);
  vi.spyOn(vm, "resume").mockImplementation(() => {
    seen.push(session.isStopped);
    return resume();
  });
  await runtime.snapshots.take(id);
  seen.push(session.isStopped);
  daemon.host.arrange("saveSnapshot", failure);
  await expect(runtime.snapshots.take(id)).rejects.toBe(failure.error);
  expect([...seen, session.isStopped]).toEqual([false, true, false, true, false]);
  await deps.unfinishedWork.idle();
});

test("a snapshot is a template: sandboxes are made from it, and it is listed, and deleted when no sandbox uses it", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, clock } = daemon;
  const { id } = (await daemon.create()).record;
  const first = await runtime.snapshots.take(id);
  await clock.advance(1);
  const named = await runtime.snapshots.take(id, nameOf("mine"));
  await clock.advance(1);
  const tagged = await runtime.snapshots.take(id, nameOf("mine", "v2"));
  expect(tagged).toEqual({ templateId: named.templateId, alias: "mine", tag: "v2" });
  await runtime.ends.kill(id);
  await daemon.settle();
  const made = await daemon.create({ template: nameOf(first.templateId) });
  expect(made.record.templateId).toBe(first.templateId);
  await daemon.create({ template: nameOf("mine", "v2") });
  expect(runtime.snapshots.list({ limit: 2, sandboxId: id }).snapshots).toMatchObject([tagged, named]);
  const { next } = runtime.snapshots.list({ limit: 2 });
  expect(runtime.snapshots.list({ limit: 2, ...(next && { after: next }) })).toMatchObject({
    snapshots: [first],
    next: undefined,
  });
  const withName = (filter: { name: string; tag?: string }) =>
    runtime.snapshots.list({ limit: 9, ...filter }).snapshots;
  expect(withName({ name: "mine" })).toMatchObject([tagged, named]);
  expect(withName({ name: "mine", tag: "v2" })).toMatchObject([tagged]);
  expect(withName({ name: named.templateId, tag: "default" })).toMatchObject([named]);
  expect(withName({ name: "mine", tag: "v3" })).toEqual([]);
  expect(runtime.snapshots.list({ limit: 9, sandboxId: "ixx" }).snapshots).toEqual([]);

  await expect(runtime.snapshots.remove(first.templateId, undefined)).rejects.toMatchObject({
    code: "failed_precondition",
  });
  await runtime.ends.kill(made.record.id);
  await daemon.settle();
  await runtime.snapshots.remove(first.templateId, undefined);
  await expect(runtime.snapshots.remove(first.templateId, undefined)).rejects.toMatchObject({ code: "not_found" });
  await expect(daemon.create({ template: nameOf(first.templateId) })).rejects.toMatchObject({ code: "not_found" });
  expect(await daemon.remains()).toMatchObject({ snapshots: 2, snapshotFolders: 2 });
  await daemon.restart();
  expect(await daemon.remains()).toMatchObject({ snapshots: 2, snapshotFolders: 2, machines: 1 });
});

test("a template that was built is neither overwritten nor deleted", async () => {
  await using daemon = await FakeDaemon.open();
  const { id } = (await daemon.create()).record;
  await expect(daemon.runtime.snapshots.take(id, nameOf("base"))).rejects.toMatchObject({ code: "invalid_argument" });
  await expect(daemon.runtime.snapshots.remove("base", undefined)).rejects.toMatchObject({ code: "unsupported" });
  expect(await daemon.remains()).toEqual(running);
});

test("a follow-up goes on from a paused sandbox, which stays, and either may end first", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime } = daemon;
  const { id } = (await daemon.create({ envs: { A: "1" }, metadata: { job: "a" } })).record;
  await expect(runtime.forks.followUp(id, { timeoutMs: 1_000 })).rejects.toMatchObject({ code: "invalid_state" });
  await daemon.pause(id, "exited");
  const { view, reason } = await runtime.forks.followUp(id, { timeoutMs: 1_000, envs: { B: "2" } });
  expect(reason).toBe("exited");
  expect(view).toMatchObject({ state: "running", record: { envs: { B: "2" }, metadata: { job: "a" } } });
  expect(runtime.registry.get(id).state).toBe("paused");
  expect(await daemon.remains()).toEqual({ ...running, snapshots: 1, snapshotFolders: 1 });
  await runtime.ends.kill(id);
  await daemon.settle();
  expect(await daemon.remains()).toEqual(running);
  await daemon.pause(view.record.id);
  expect((await runtime.resumes.connect(view.record.id, 1_000)).resumed).toBe(true);
});

test("a paused sandbox can be neither forked nor made a template", async () => {
  await using daemon = await FakeDaemon.open();
  const { id } = (await daemon.create()).record;
  await daemon.pause(id);
  const forking = daemon.runtime.forks.fork(id, { count: 1, timeoutMs: 1 });
  await expect(forking).rejects.toMatchObject({ code: "invalid_state" });
  await expect(daemon.runtime.snapshots.take(id)).rejects.toMatchObject({ code: "not_found" });
  expect(await daemon.remains()).toEqual(paused);
});
