/** Tests of the machine that a saved pause leaves behind: it ends in the background, and holds its capacity until then. */
import { setImmediate as turn } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { getSandbox } from "../../../src/ledger/sandboxes.ts";
import { shape } from "../../ledger/support.ts";
import { FakeDaemon, nothing, paused } from "../../support/fakes/fake-daemon.ts";
import { closedGate } from "../../support/fakes/gate.ts";

const failure = { error: new DomainError("machine_failed", "arranged by the test") };

test("a pause is answered before its machine ends, and a machine that will not end keeps its reservation until it does", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, host } = daemon;
  const { id } = (await daemon.create()).record;
  const gate = closedGate();
  host.arrange("terminate", failure, { gate: gate.opened });
  const attempts = () => host.calls.filter((step) => step === "terminate").length;
  const before = attempts();
  await runtime.pauses.pause(id, "stopped");
  await expect.poll(attempts).toBe(before + 2);
  expect(await daemon.remains()).toMatchObject({ machines: 1, reservations: 1, snapshots: 1 });
  expect(runtime.registry.get(id)).toMatchObject({ state: "paused", keptMemory: true });
  gate.open();
  await daemon.settle();
  expect(await daemon.remains()).toEqual(paused);
});

test("a sandbox can be killed while the machine of its pause does not end", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, host } = daemon;
  const { id } = (await daemon.create()).record;
  const gate = closedGate();
  host.arrange("terminate", { gate: gate.opened, error: new DomainError("machine_failed", "it will not go") });
  await runtime.pauses.pause(id, "stopped");
  await runtime.ends.kill(id);
  expect(() => runtime.registry.get(id)).toThrow("doesn't exist");
  gate.open();
  await daemon.settle();
  expect(await daemon.remains()).toEqual(nothing);
  expect(getSandbox(daemon.ledger, id)).toMatchObject({ state: "terminated", endReason: "killed" });
});

test("a resume does not wait for ever for a machine that does not end, nor does the stop of the daemon", async () => {
  await using daemon = await FakeDaemon.open({ retriesByHand: true });
  const { runtime, host, clock } = daemon;
  const { id } = (await daemon.create()).record;
  host.arrange("terminate", ...Array.from({ length: 20 }, () => failure));
  await runtime.pauses.pause(id, "stopped");
  const resuming = expect(runtime.resumes.resume(id, 1_000)).rejects.toMatchObject({ code: "not_ready" });
  for (let seconds = 0; seconds < 12; seconds++) await clock.advance(1_000);
  await resuming;
  expect(runtime.registry.get(id)).toMatchObject({ state: "paused", keptMemory: true });
  await runtime.close();
  host.forget("terminate");
  await daemon.start();
  await daemon.settle();
  expect(await daemon.remains()).toEqual(paused);
});

test("a pause that the ledger cannot take at first is published once there is room, which its machine makes", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, host, ledger } = daemon;
  const { id } = (await daemon.create()).record;
  const full = vi.spyOn(ledger, "writeDurably").mockImplementationOnce(() => {
    throw new DomainError("disk_pressure", "no space is left");
  });
  await runtime.pauses.pause(id, "stopped");
  expect(host.machines.size).toBe(0);
  full.mockRestore();
  await daemon.settle();
  expect(await daemon.remains()).toEqual(paused);
});

test.each(["resume", "followUp"] as const)(
  "a %s that comes while the machine of a pause ends waits for that",
  async (how) => {
    await using daemon = await FakeDaemon.open();
    const { runtime, host } = daemon;
    const { id } = (await daemon.create()).record;
    const gate = closedGate();
    host.arrange("terminate", { gate: gate.opened });
    await runtime.pauses.pause(id, "stopped");
    const restores = () => host.calls.filter((step) => step === "restore").length;
    const before = restores();
    const following =
      how === "resume" ? runtime.resumes.resume(id, 1_000) : runtime.forks.followUp(id, { timeoutMs: 1_000 });
    for (let turns = 0; turns < 200; turns++) await turn();
    expect([daemon.stateOf(id), restores()]).toEqual(["paused", before]);
    gate.open();
    await following;
    await daemon.settle();
    expect(restores()).toBe(before + 1);
    expect(daemon.held().active).toBe(1);
  },
);

test("without a queue, a create that waits for a machine to end holds up none that fits", async () => {
  await using daemon = await FakeDaemon.open({
    budgets: { memoryMiB: 4 * shape.memoryMiB },
    queue: { limit: 0, timeoutMs: 0 },
  });
  const { runtime, host } = daemon;
  await daemon.addTemplate("large", { ...shape, memoryMiB: 3 * shape.memoryMiB });
  const { id } = (await daemon.create()).record;
  await daemon.create();
  const gate = closedGate();
  host.arrange("terminate", { gate: gate.opened });
  await runtime.pauses.pause(id, "stopped");
  const large = daemon.create("large");
  const small = await daemon.create();
  expect(small.state).toBe("running");
  await runtime.ends.kill(small.record.id);
  gate.open();
  expect((await large).state).toBe("running");
});

test.each(["pause", "kill"] as const)(
  "without a queue, a create right after a %s waits until the machine has ended, and is not refused",
  async (how) => {
    await using daemon = await FakeDaemon.open({ budgets: { sandboxes: 1 }, queue: { limit: 0, timeoutMs: 0 } });
    const { runtime, host } = daemon;
    const { id } = (await daemon.create()).record;
    const gate = closedGate();
    host.arrange("terminate", { gate: gate.opened });
    await (how === "pause" ? runtime.pauses.pause(id, "stopped") : runtime.ends.kill(id));
    const creating = daemon.create();
    expect(daemon.held().active).toBe(1);
    gate.open();
    expect(await creating).toMatchObject({ state: "running" });
    await expect(daemon.create()).rejects.toMatchObject({ code: "capacity_exhausted" });
  },
);
