/** Tests of sandboxes that wait for room on the host's disk, over the fake engine. */
import { expect, test } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import { judgeWriter } from "../../../src/runtime/sandboxes/disk-waits.ts";
import { FakeDaemon, nothing, running } from "../../support/fakes/fake-daemon.ts";

const gib = 2 ** 30;
const mib = 2 ** 20;
const full = "No space left on device";

/** The machine of a sandbox, which a test blocks and lets write. */
function machineOf({ runtime, host }: FakeDaemon, id: string) {
  const machine = host.machines.get(runtime.registry.session(id)?.sessionId ?? "");
  if (!machine) throw new Error("there is no machine");
  return machine;
}

/** One look at the disk, a second after the one before. */
async function look(daemon: FakeDaemon): Promise<void> {
  await daemon.clock.advance(1_000);
  await daemon.runtime.diskWaits.check();
  await daemon.settle();
}

const messagesOf = ({ runtime }: FakeDaemon, id: string) =>
  runtime.observations.logs(id, { search: "", order: "asc", limit: 100 }).map(({ message }) => message);

test("a writer waits when the disk is full and it grows, and goes on when there is room with a margin", () => {
  const room = { freeBytes: 10 * gib, floorBytes: gib, writtenBytes: 5 * gib, limitBytes: undefined };
  const grows = { waits: false, grewBytes: 64 * mib };
  const waits = { waits: true, grewBytes: 0 };
  expect(judgeWriter(room, grows)).toBe("as_it_is");
  expect(judgeWriter({ ...room, freeBytes: gib - 1 }, grows)).toBe("wait");
  expect(judgeWriter({ ...room, freeBytes: gib - 1 }, { ...grows, grewBytes: 4096 })).toBe("as_it_is");
  expect(judgeWriter({ ...room, limitBytes: 5 * gib - 1 }, grows)).toBe("wait");
  expect(judgeWriter({ ...room, freeBytes: gib }, waits)).toBe("as_it_is");
  expect(judgeWriter({ ...room, freeBytes: 2 * gib }, waits)).toBe("go_on");
  expect(judgeWriter({ ...room, freeBytes: 2 * gib, limitBytes: 5 * gib - 1 }, waits)).toBe("as_it_is");
  expect(judgeWriter({ ...room, freeBytes: 2 * gib, limitBytes: 5 * gib }, waits)).toBe("go_on");
  // Without a floor there is still something to write into.
  expect(judgeWriter({ ...room, freeBytes: mib, floorBytes: 0 }, waits)).toBe("as_it_is");
});

test("a sandbox whose write found no room says so, is not taken for silent, and goes on when there is room", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, clock, disk } = daemon;
  const { id } = (await daemon.create({ timeoutMs: 1e9 })).record;
  const machine = machineOf(daemon, id);
  machine.blockedBy = full;
  disk.freeBytes = 0;
  for (let seconds = 0; seconds < 400; seconds += 5) {
    await clock.advance(5_000);
    await runtime.diskWaits.check();
    runtime.checkHeartbeats();
  }
  await daemon.settle();
  expect(await daemon.remains()).toEqual(running);
  expect(runtime.registry.get(id)).toMatchObject({ state: "running", waitsForDisk: true });
  expect(() => runtime.registry.session(id)?.agent).toThrow(/stands still.*disk/);
  expect(runtime.capacity().waitingForDisk).toBe(1);
  expect(await daemon.metric("firkin_sandboxes_waiting_for_disk ")).toBe(1);
  expect(daemon.logged.map(({ msg }) => msg)).toEqual(["a sandbox waits for room on the host's disk"]);

  disk.freeBytes = 50 * gib;
  await look(daemon);
  expect(machine.blockedBy).toBeUndefined();
  await look(daemon);
  expect(runtime.registry.get(id).waitsForDisk).toBeUndefined();
  expect(runtime.registry.session(id)?.agent).toBeDefined();
  expect(runtime.capacity().waitingForDisk).toBe(0);
  expect(messagesOf(daemon, id).slice(-2)).toEqual([
    `The sandbox stands still, because the host's disk takes no more (${full}). It goes on when there is room.`,
    "The sandbox goes on, because there is room on the host's disk",
  ]);
});

test("a write that fails although there is room is tried again, more and more rarely", async () => {
  await using daemon = await FakeDaemon.open();
  const { host } = daemon;
  const { id } = (await daemon.create({ timeoutMs: 1e9 })).record;
  const machine = machineOf(daemon, id);
  const block = () => {
    machine.blockedBy = "Input/output error";
  };
  block();
  for (let second = 0; second < 300; second++) {
    await look(daemon);
    block();
  }
  const tries = host.calls.filter((step) => step === "resume").length;
  expect(tries).toBeGreaterThan(6);
  expect(tries).toBeLessThan(15);
});

test("below the floor the machines that write are held, and the others go on", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, disk, host } = daemon;
  const [writer, other] = [(await daemon.create()).record.id, (await daemon.create()).record.id];
  const machine = machineOf(daemon, writer);
  const bystander = machineOf(daemon, other);
  disk.freeBytes = 1.5 * gib;
  await look(daemon);
  machine.diskBytes += gib;
  disk.freeBytes = 0.5 * gib;
  await look(daemon);
  expect([machine.at, bystander.at]).toEqual(["paused", "running"]);
  expect(runtime.registry.get(writer)).toMatchObject({ state: "running", waitsForDisk: true });
  expect(runtime.registry.get(other).waitsForDisk).toBeUndefined();
  await look(daemon);
  disk.freeBytes = 3 * gib;
  await look(daemon);
  expect(machine.at).toBe("running");
  await look(daemon);
  expect(runtime.registry.get(writer).waitsForDisk).toBeUndefined();
  expect(host.calls.filter((step) => step === "pause")).toHaveLength(2);
});

test("what guests write together is limited", async () => {
  await using daemon = await FakeDaemon.open({ guestDiskMiB: 100 });
  const { runtime } = daemon;
  const ids = [(await daemon.create()).record.id, (await daemon.create()).record.id] as const;
  const [first, second] = [machineOf(daemon, ids[0]), machineOf(daemon, ids[1])];
  await look(daemon);
  first.diskBytes = 60 * mib;
  await look(daemon);
  expect([first.at, second.at]).toEqual(["running", "running"]);
  second.diskBytes = 60 * mib;
  await look(daemon);
  expect([first.at, second.at]).toEqual(["running", "paused"]);
  await runtime.ends.kill(ids[0]);
  await daemon.settle();
  await look(daemon);
  expect(second.at).toBe("running");
});

test("a sandbox that waits is killed as every other, and a pause of it is refused with the reason", async () => {
  await using daemon = await FakeDaemon.open();
  const { runtime, disk, host } = daemon;
  const { id } = (await daemon.create()).record;
  machineOf(daemon, id).blockedBy = full;
  disk.freeBytes = 0;
  await look(daemon);
  await expect(runtime.pauses.pause(id, "stopped")).rejects.toMatchObject({ code: "disk_pressure" });
  disk.freeBytes = 50 * gib;
  host.arrange("saveSnapshot", { error: new DomainError("disk_pressure", "arranged by the test") });
  await expect(runtime.pauses.pause(id, "stopped")).rejects.toMatchObject({ code: "disk_pressure" });
  expect(runtime.registry.get(id).state).toBe("running");
  await runtime.ends.kill(id);
  await daemon.settle();
  expect(await daemon.remains()).toEqual(nothing);
});

test("a daemon that starts beside a machine that waits takes it up, and lets it go on when there is room", async () => {
  await using daemon = await FakeDaemon.open();
  const { disk } = daemon;
  const { id } = (await daemon.create({ timeoutMs: 1e9 })).record;
  const machine = machineOf(daemon, id);
  machine.blockedBy = full;
  disk.freeBytes = 0;
  await daemon.restart();
  expect(machine.blockedBy).toBe(full);
  await look(daemon);
  expect(daemon.runtime.registry.get(id)).toMatchObject({ state: "running", waitsForDisk: true });
  disk.freeBytes = 50 * gib;
  await look(daemon);
  await look(daemon);
  expect(daemon.runtime.registry.get(id).waitsForDisk).toBeUndefined();
  expect(await daemon.remains()).toEqual(running);
});
