/**
 * The host's disk fills up under sandboxes that run: those that write wait, say so and go on when there is room. No
 * sandbox is lost, and those that do not write notice nothing.
 */
import { setTimeout as delay } from "node:timers/promises";
import { Sandbox } from "e2b";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { testedEngine } from "../support/daemon/engine-processes.ts";
import { missingForRealMachines } from "../support/daemon/real-daemon.ts";
import { call, connectionTo, logLines, metric } from "../support/daemon/requests.ts";
import { cannotMount, moveToSmallDisk, type SmallDisk } from "../support/faults/small-disk.ts";
import { FaultWorld } from "../support/faults/world.ts";
import { count } from "../support/guest/memory-counter.ts";
import { titleOf } from "../support/skipped-title.ts";

const mib = 2 ** 20;
/** Without floors the disk itself refuses, and not the daemon before it. */
const noFloors = ["--disk-floor-mib", "0", "--save-disk-floor-mib", "0", "--refill-disk-floor-mib", "0"];
const writtenMiB = 120;
/** Longer than the silence after which a guest is given up. */
const patienceMs = 20_000;

interface Detail {
  readonly state: string;
  readonly waitingFor?: string;
}

/** gVisor tells the guest alone: its write fails, and the machine does not stand still. */
const notHere = testedEngine === "gvisor" ? "the engine gvisor holds no machine whose write fails" : undefined;
const missing = missingForRealMachines() ?? notHere ?? cannotMount;

describe.skipIf(missing)(titleOf("a disk that fills up", missing), () => {
  let world: FaultWorld;
  let disk: SmallDisk;
  beforeAll(async () => {
    world = await FaultWorld.open();
    await world.stopEmpty();
    disk = moveToSmallDisk(world.home.stateDir, 1000, "ext4");
    await world.start(0, noFloors);
  });
  afterAll(async () => {
    disk?.free();
    await world?.stopEmpty().catch(() => {});
    await disk?.[Symbol.asyncDispose]();
    await world?.[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    // A sandbox writes again where it has written before, which takes no room: each test has one of its own.
    disk.free();
    await world.subjectIs("running");
    await goesOn(world.subject.id);
  });

  const connect = (id: string) => Sandbox.connect(id, connectionTo(world.daemon));
  const detailOf = (id: string) => world.get<Detail>(`/sandboxes/${id}`);
  const waitingForDisk = async () => {
    const answer = await call(world.daemon, "/health", { headers: { accept: "application/json" } });
    return ((await answer.json()) as { waitingForDisk: number }).waitingForDisk;
  };
  const beginsToWait = (id: string) =>
    expect.poll(async () => (await detailOf(id)).waitingFor, { timeout: 240_000, interval: 250 }).toBe("disk");
  const goesOn = (id: string) =>
    expect.poll(async () => (await detailOf(id)).waitingFor, { timeout: 120_000, interval: 250 }).toBeUndefined();

  /** Writes in the background, and says at the end how it went. */
  async function write(sandbox: Sandbox, name: string): Promise<void> {
    const program = `yes "${name} $RANDOM$RANDOM" | head -c ${writtenMiB * mib} >${name} && sync ${name} && md5sum <${name} >${name}.sum`;
    await sandbox.commands.run(`(${program}) >${name}.log 2>&1; echo $? >${name}.end`, { background: true });
  }

  /** Waits until the writing has ended, and checks that it noticed nothing and everything is there. */
  async function isWritten(sandbox: Sandbox, name: string): Promise<void> {
    const read = (command: string) => sandbox.commands.run(command).then(({ stdout }) => stdout.trim(), String);
    await expect.poll(() => read(`cat ${name}.end`), { timeout: 240_000, interval: 500 }).toBe("0");
    // The guest's own memory must not answer for the disk.
    await sandbox.commands.run("sync; echo 3 >/proc/sys/vm/drop_caches", { user: "root" });
    expect(await read(`md5sum <${name} | cmp - ${name}.sum && stat -c %s ${name}`)).toBe(`${writtenMiB * mib}`);
  }

  test("a sandbox whose write finds no room waits, says so, and goes on when there is room", {
    timeout: 600_000,
  }, async () => {
    const { subject } = world;
    const [sandbox, other] = [await connect(subject.id), await connect((await world.makeCounted()).id)];
    disk.fill(6 * mib);
    await write(sandbox, "waits");
    await beginsToWait(subject.id);
    expect((await detailOf(subject.id)).state).toBe("running");
    expect(await waitingForDisk()).toBe(1);
    expect(await metric(world.daemon, "firkin_sandboxes_waiting_for_disk")).toBe(1);
    const answer = await sandbox.commands.run("true").then(String, String);
    expect(answer).toMatch(/stands still, because the host's disk is full/);
    expect(logLines(world.daemon).filter(({ msg }) => msg.startsWith("a sandbox waits for room"))).toMatchObject([
      { sandboxID: subject.id, cause: "No space left on device" },
    ]);
    await delay(patienceMs);
    expect(await detailOf(subject.id)).toMatchObject({ state: "running", waitingFor: "disk" });
    // A sandbox that writes nothing notices nothing. A connect would, because it writes down the new deadline.
    expect(await count(other)).toBe(1);
    disk.free();
    await goesOn(subject.id);
    await isWritten(sandbox, "waits");
    await world.counts(subject);
    const { logs } = await world.get<{ logs: { message: string }[] }>(`/v2/sandboxes/${subject.id}/logs`);
    expect(logs.map(({ message }) => message).filter((message) => /disk/.test(message))).toEqual([
      // Newest first.
      "The sandbox goes on, because there is room on the host's disk",
      expect.stringContaining("stands still, because the host's disk takes no more (No space left on device)"),
    ]);
    await other.kill();
    await world.delete(`/sandboxes/${subject.id}`);
    expect(await world.leftovers()).toEqual([]);
  });

  test("a daemon that starts beside a sandbox that waits takes it up, and lets it go on", {
    timeout: 600_000,
  }, async () => {
    const { subject } = world;
    disk.fill(6 * mib);
    await write(await connect(subject.id), "adopted");
    await beginsToWait(subject.id);
    await world.daemon.kill();
    // The daemon itself needs a little, which is too little for the sandbox.
    disk.free();
    disk.fill(8 * mib);
    await world.start(0, noFloors);
    await beginsToWait(subject.id);
    await delay(patienceMs);
    expect(await detailOf(subject.id)).toMatchObject({ state: "running", waitingFor: "disk" });
    disk.free();
    await goesOn(subject.id);
    await isWritten(await connect(subject.id), "adopted");
    await world.counts(subject);
    await world.delete(`/sandboxes/${subject.id}`);
    expect(await world.leftovers()).toEqual([]);
  });

  test("below the floor a sandbox that writes is held before the disk is full", { timeout: 600_000 }, async () => {
    await world.daemon.stop();
    await world.start(0, [...noFloors, "--write-disk-floor-mib", "200"]);
    const { subject } = world;
    const sandbox = await connect(subject.id);
    disk.fill(230 * mib);
    await write(sandbox, "held");
    await beginsToWait(subject.id);
    expect(disk.freeBytes()).toBeGreaterThan(0);
    expect(await world.ledgerStateOf(subject.id)).toBe("running");
    disk.free();
    await goesOn(subject.id);
    await isWritten(sandbox, "held");
    await world.counts(subject);
    expect(await world.leftovers()).toEqual([]);
  });
});
