/** Stopping: the guest is asked, and whatever it does, the sandbox ends once and gives its capacity back once. */
import { expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { getSandbox } from "../../src/ledger/sandboxes.ts";
import { closedGate } from "../support/gate.ts";
import { openWorld, type World } from "../support/runtime-world.ts";

/** Lets the work that waits for the clock go on, one step of it after the other. */
async function pass(world: World, ms: number): Promise<void> {
  for (let step = 0; step < 5; step += 1) await world.clock.advance(ms / 5);
}

test("a stopped sandbox ends with that reason, and stopping it again does nothing", async () => {
  await using world = await openWorld();
  const { id } = (await world.create()).record;
  const stopping = world.runtime.stopSandbox(id, 100);
  await pass(world, 2_000);
  await stopping;
  await world.settle();
  expect(getSandbox(world.ledger, id)).toMatchObject({ state: "terminated", endReason: "stopped" });
  expect([world.held(), world.host.machines.size]).toEqual([{ active: 0, warm: 0 }, 0]);
  expect(await world.metric('firkin_sandboxes_ended_total{reason="stopped"}')).toBe(1);
  await world.runtime.stopSandbox(id, 100);
  await expect(world.runtime.stopSandbox("inever", 100)).rejects.toMatchObject({ code: "not_found" });
  await expect(world.runtime.killSandbox(id)).rejects.toMatchObject({ code: "not_found" });
});

test("a guest that does not answer is ended after its deadline", async () => {
  await using world = await openWorld();
  const { id } = (await world.create()).record;
  world.guests.ignoresShutdown = true;
  const stopping = world.runtime.stopSandbox(id, 1_000);
  await pass(world, 2_000);
  expect(getSandbox(world.ledger, id)?.state).toBe("running");
  await pass(world, 5_000);
  await stopping;
  await world.settle();
  expect(getSandbox(world.ledger, id)).toMatchObject({ state: "terminated", endReason: "stopped" });
  expect(world.held()).toEqual({ active: 0, warm: 0 });
});

test("a kill does not wait for a stop that is under way", async () => {
  await using world = await openWorld();
  const { id } = (await world.create()).record;
  world.guests.ignoresShutdown = true;
  const stopping = world.runtime.stopSandbox(id, 600_000);
  await pass(world, 100);
  const killing = world.runtime.killSandbox(id).catch((error: unknown) => error);
  await stopping;
  await expect(killing).resolves.toMatchObject({ code: "not_found" });
  await world.settle();
  expect(world.held()).toEqual({ active: 0, warm: 0 });
});

test("a daemon that stops waits for no guest, neither for one whose turn is yet to come", async () => {
  await using world = await openWorld();
  const { id } = (await world.create()).record;
  world.guests.ignoresShutdown = true;
  const gate = closedGate();
  world.host.arrange("saveSnapshot", { gate: gate.opened });
  const saving = world.runtime.snapshotSandbox(id);
  const stopping = world.runtime.stopSandbox(id, 600_000);
  const closing = world.runtime.close();
  gate.open();
  await closing;
  await Promise.all([saving, stopping]);
  expect(getSandbox(world.ledger, id)).toMatchObject({ state: "terminated", endReason: "stopped" });
});

test("a machine that cannot be ended keeps its capacity until it is", async () => {
  await using world = await openWorld();
  const { id } = (await world.create()).record;
  world.host.arrange("terminate", { error: new DomainError("machine_failed", "arranged by the test") });
  const stopping = world.runtime.stopSandbox(id, 100);
  await pass(world, 2_000);
  await stopping;
  expect([getSandbox(world.ledger, id)?.state, world.held().active]).toEqual(["terminating", 1]);
  await pass(world, 1_000);
  await world.settle();
  expect([getSandbox(world.ledger, id)?.state, world.held().active]).toEqual(["terminated", 0]);
});

test("a paused sandbox is stopped by removing what it rests in", async () => {
  await using world = await openWorld();
  const { id } = (await world.create()).record;
  await world.runtime.pauseSandbox(id, "idle");
  await world.runtime.stopSandbox(id, 100);
  await world.settle();
  expect(getSandbox(world.ledger, id)).toMatchObject({ state: "terminated", endReason: "stopped" });
});
