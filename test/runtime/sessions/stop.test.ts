/** Tests of stops: the guest is asked, and whatever it does, the sandbox ends once and releases its capacity once. */
import { expect, test } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { getSandbox } from "../../../src/ledger/sandboxes.ts";
import { FakeDaemon, pooled } from "../../support/fakes/fake-daemon.ts";
import { closedGate } from "../../support/fakes/gate.ts";

/** Lets the work that waits for the clock go on, step by step. */
async function pass(daemon: FakeDaemon, ms: number): Promise<void> {
  for (let step = 0; step < 5; step += 1) await daemon.clock.advance(ms / 5);
}

test("a stopped sandbox ends with that reason, and stopping it again does nothing", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const { id } = (await daemon.create()).record;
  const stopping = daemon.runtime.ends.stop(id, 100);
  await pass(daemon, 2_000);
  await stopping;
  await daemon.settle();
  expect(getSandbox(daemon.ledger, id)).toMatchObject({ state: "terminated", endReason: "stopped" });
  expect([daemon.held(), daemon.host.machines.size]).toEqual([{ active: 0, warm: 0 }, 0]);
  expect(await daemon.metric('firkin_sandboxes_ended_total{reason="stopped"}')).toBe(1);
  await daemon.runtime.ends.stop(id, 100);
  await expect(daemon.runtime.ends.stop("inever", 100)).rejects.toMatchObject({ code: "not_found" });
  await expect(daemon.runtime.ends.kill(id)).rejects.toMatchObject({ code: "not_found" });
});

test("a guest that does not answer is ended after its deadline", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const { id } = (await daemon.create()).record;
  daemon.guests.ignoresShutdown = true;
  const stopping = daemon.runtime.ends.stop(id, 1_000);
  await pass(daemon, 2_000);
  expect(getSandbox(daemon.ledger, id)?.state).toBe("running");
  await pass(daemon, 5_000);
  await stopping;
  await daemon.settle();
  expect(getSandbox(daemon.ledger, id)).toMatchObject({ state: "terminated", endReason: "stopped" });
  expect(daemon.held()).toEqual({ active: 0, warm: 0 });
});

test("a kill does not wait for a stop that is under way", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const { id } = (await daemon.create()).record;
  daemon.guests.ignoresShutdown = true;
  const stopping = daemon.runtime.ends.stop(id, 600_000);
  await pass(daemon, 100);
  const killing = daemon.runtime.ends.kill(id).catch((error: unknown) => error);
  await stopping;
  await expect(killing).resolves.toMatchObject({ code: "not_found" });
  await daemon.settle();
  expect(daemon.held()).toEqual({ active: 0, warm: 0 });
});

test("a daemon that stops waits for no guest, nor for a stop that is still queued", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const { id } = (await daemon.create()).record;
  daemon.guests.ignoresShutdown = true;
  const gate = closedGate();
  daemon.host.arrange("saveSnapshot", { gate: gate.opened });
  const saving = daemon.runtime.snapshots.take(id);
  const stopping = daemon.runtime.ends.stop(id, 600_000);
  const closing = daemon.runtime.close();
  gate.open();
  await closing;
  await Promise.all([saving, stopping]);
  expect(getSandbox(daemon.ledger, id)).toMatchObject({ state: "terminated", endReason: "stopped" });
});

test("a machine that cannot be ended keeps its capacity until it is ended", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const { id } = (await daemon.create()).record;
  daemon.host.arrange("terminate", { error: new DomainError("machine_failed", "arranged by the test") });
  const stopping = daemon.runtime.ends.stop(id, 100);
  await pass(daemon, 2_000);
  await stopping;
  expect([getSandbox(daemon.ledger, id)?.state, daemon.held().active]).toEqual(["terminating", 1]);
  await pass(daemon, 1_000);
  await daemon.settle();
  expect([getSandbox(daemon.ledger, id)?.state, daemon.held().active]).toEqual(["terminated", 0]);
});

test("the stop of a paused sandbox removes its continuation", async () => {
  await using daemon = await FakeDaemon.open(pooled);
  const { id } = (await daemon.create()).record;
  await daemon.pause(id, "idle");
  await daemon.runtime.ends.stop(id, 100);
  await daemon.settle();
  expect(getSandbox(daemon.ledger, id)).toMatchObject({ state: "terminated", endReason: "stopped" });
});
