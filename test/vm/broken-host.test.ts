/**
 * A host that breaks around a daemon that goes on: guests that panic or freeze, a disk that is full, a ledger that is
 * locked, a pid that belongs to another process now. No break leaves anything behind.
 */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import Database from "better-sqlite3";
import { Sandbox } from "e2b";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { identifyProcess } from "../../src/machine/processes.ts";
import type { ProcessIdentity } from "../../src/types.ts";
import { testedEngine } from "../support/daemon/engine-processes.ts";
import { missingForRealMachines } from "../support/daemon/real-daemon.ts";
import { connectionTo, logLines } from "../support/daemon/requests.ts";
import { cannotMount, moveToSmallDisk } from "../support/faults/small-disk.ts";
import { FaultWorld } from "../support/faults/world.ts";

describe.skipIf(missingForRealMachines())("a host that breaks", () => {
  let world: FaultWorld;
  beforeAll(async () => {
    world = await FaultWorld.open();
  });
  afterAll(() => world?.[Symbol.asyncDispose]());
  beforeEach(() => world.subjectIs("running"));

  const connect = (id: string) => Sandbox.connect(id, connectionTo(world.daemon));
  const isGone = (id: string) => expect.poll(() => world.stateOf(id), { timeout: 60_000 }).toBe("gone");
  const endOf = (id: string) =>
    logLines(world.daemon).find((line) => line.msg === "sandbox lost" && line.sandboxID === id);

  test("a counter in memory goes on over pause, resume, fork, kill -9 and SIGTERM", async () => {
    const { subject } = world;
    await world.counts(subject);
    await world.post(`/sandboxes/${subject.id}/pause`);
    await world.counts(subject);
    const answer = await world.post(`/sandboxes/${subject.id}/fork`, { timeout: 900, count: 2 });
    const children = (await answer?.json()) as { sandbox: { sandboxID: string } }[];
    expect(children).toHaveLength(2);
    for (const { sandbox } of children) await world.childCounts(sandbox.sandboxID, subject);
    await world.counts(subject);
    await world.daemon.kill();
    await world.start(0);
    await world.counts(subject);
    expect(await world.daemon.stop()).toBe(0);
    await world.start(0);
    await world.counts(subject);
    for (const { sandbox } of children) await world.delete(`/sandboxes/${sandbox.sandboxID}`);
    expect(await world.leftovers()).toEqual([]);
  });

  const lastWords = {
    qemu: /the guest ended itself \(guest-reset\); its console ends: .*entry_SYSCALL/s,
    gvisor: /the machine's log ends: the sandbox ended with 137/,
  }[testedEngine];

  test("a guest whose kernel panics is lost, with its last words in the log", async () => {
    const { id } = world.subject;
    const sandbox = await connect(id);
    const failure = await sandbox.commands
      // In gVisor the end of process 1 is that of the kernel.
      .run(`sudo sh -c '${testedEngine === "gvisor" ? "kill -9 1" : "echo c > /proc/sysrq-trigger"}'; sleep 60`)
      .catch((error: Error) => error);
    expect(failure).toBeInstanceOf(Error);
    await isGone(id);
    expect(endOf(id)?.detail).toMatch(lastWords);
    expect(await world.leftovers()).toEqual([]);
  });

  test("a machine that freezes is paused once it goes on, and nothing of it is lost", async () => {
    const { subject } = world;
    const engine = world.newestEngine();
    process.kill(engine.pid, "SIGSTOP");
    try {
      // The silence is noticed, the pause finds no engine that answers, and the client is told to come back.
      await expect.poll(() => world.stateOf(subject.id), { timeout: 60_000 }).toBe("paused");
      const answer = await world.post(`/sandboxes/${subject.id}/connect`, { timeout: 900 });
      expect([answer?.status, answer?.headers.get("retry-after")]).toEqual([503, "1"]);
      expect(world.ledgerStateOf(subject.id)).toBe("pausing");
    } finally {
      process.kill(engine.pid, "SIGCONT");
    }
    await expect.poll(() => world.ledgerStateOf(subject.id), { timeout: 90_000 }).toBe("paused");
    await world.counts(subject);
    expect(await world.leftovers()).toEqual([]);
    await world.bystanderCounts();
  });

  test("a pause of a frozen machine is answered with 504 and done once the machine goes on", async () => {
    const { subject } = world;
    const engine = world.newestEngine();
    process.kill(engine.pid, "SIGSTOP");
    try {
      const answer = await world.post(`/sandboxes/${subject.id}/pause`);
      expect(answer?.status).toBe(504);
      expect(await answer?.text()).toMatch(/does not answer, and the sandbox is paused once it does/);
    } finally {
      process.kill(engine.pid, "SIGCONT");
    }
    await expect.poll(() => world.ledgerStateOf(subject.id), { timeout: 90_000 }).toBe("paused");
    await world.counts(subject);
    expect(await world.leftovers()).toEqual([]);
  });

  test("a fork of a frozen machine is answered with 504, and the source goes on once its machine does", async () => {
    const { subject } = world;
    const engine = world.newestEngine();
    process.kill(engine.pid, "SIGSTOP");
    try {
      expect((await world.post(`/sandboxes/${subject.id}/fork`))?.status).toBe(504);
      expect(await world.stateOf(subject.id)).toBe("running");
    } finally {
      process.kill(engine.pid, "SIGCONT");
    }
    await world.answers(subject);
    await world.counts(subject);
    expect(await world.leftovers()).toEqual([]);
  });

  test("a daemon that starts beside a frozen machine takes it up once the machine goes on", async () => {
    const { subject } = world;
    const engine = world.newestEngine();
    process.kill(engine.pid, "SIGSTOP");
    try {
      await world.daemon.kill();
      await world.start(0);
      expect(await world.stateOf(subject.id)).toBe("running");
      const answer = await world.post(`/sandboxes/${subject.id}/pause`);
      expect(answer?.status).toBe(503);
    } finally {
      process.kill(engine.pid, "SIGCONT");
    }
    await world.answers(subject);
    await world.counts(subject);
    expect(await world.leftovers()).toEqual([]);
  });

  test("a frozen machine whose sandbox is killed is killed, and no other process is", async () => {
    const { id } = world.subject;
    const engine = world.newestEngine();
    // This process equals a recorded one in all but its start time, like a process whose pid was given out again.
    const lookalike = spawn("sleep", ["600"]);
    try {
      const identity = identifyProcess("network", lookalike.pid ?? 0);
      await world.daemon.kill();
      addToRecord(world, id, { ...identity, startTime: String(Number(identity?.startTime) - 1) });
      await world.start(0);
      process.kill(engine.pid, "SIGSTOP");
      const pausing = world.post(`/sandboxes/${id}/pause`);
      expect((await pausing)?.status).toBe(504);
      expect((await world.delete(`/sandboxes/${id}`))?.status).toBe(204);
      await isGone(id);
      expect(await world.leftovers()).toEqual([]);
      expect(lookalike.exitCode ?? lookalike.signalCode).toBeNull();
    } finally {
      lookalike.kill("SIGKILL");
    }
    await world.bystanderCounts();
  });

  test("a ledger that is locked delays requests, is reported when it stays locked, and loses nothing", async () => {
    const { subject } = world;
    const other = new Database(join(world.home.stateDir, "ledger.db"));
    const locked = async (ms: number, act: () => Promise<Response | undefined>) => {
      other.exec("begin immediate");
      const answer = act();
      await delay(ms);
      other.exec("rollback");
      return answer;
    };
    try {
      const create = () => world.post("/sandboxes", { templateID: "base", timeout: 900 });
      expect((await locked(1_000, create))?.status).toBe(201);
      const pause = () => world.post(`/sandboxes/${subject.id}/pause`);
      expect((await locked(1_000, pause))?.status).toBe(204);
      await world.counts(subject);
      const refused = await locked(4_000, create);
      expect(refused?.status).toBe(503);
      expect(await refused?.text()).toMatch(/Another process keeps the ledger .* locked/);
      const late = await locked(4_000, pause);
      expect([204, 503]).toContain(late?.status);
      await world.counts(subject);
      for (const id of await world.others())
        expect((await locked(4_000, () => world.delete(`/sandboxes/${id}`)))?.status).toBeLessThan(504);
      for (const id of await world.others()) await world.delete(`/sandboxes/${id}`);
    } finally {
      other.close();
    }
    expect(await world.leftovers()).toEqual([]);
  });

  test.skipIf(cannotMount)(
    "a disk without a byte left refuses new work by name, and sandboxes that run go on",
    async () => {
      await world.stopEmpty();
      await using disk = moveToSmallDisk(world.home.stateDir, 800);
      try {
        await world.start(0, noFloors);
        await world.subjectIs("running");
        const { subject } = world;
        for (const leftBytes of [0]) {
          disk.fill(leftBytes);
          const answers = [
            await world.post("/sandboxes", { templateID: "base", timeout: 900 }),
            await world.post(`/sandboxes/${subject.id}/fork`),
            await world.post(`/sandboxes/${subject.id}/snapshots`),
            await world.post(`/sandboxes/${subject.id}/pause`),
          ];
          for (const answer of answers) {
            const text = await answer?.text();
            expect([201, 204, 507], text).toContain(answer?.status);
            if (leftBytes === 0) expect(answer?.status).toBe(507);
            if (answer?.status === 507) expect(text).toMatch(/no space is left|not enough free disk/i);
          }
          disk.free();
          await world.counts(subject);
          for (const id of await world.others()) await world.delete(`/sandboxes/${id}`);
          for (const { snapshotID } of await world.get<{ snapshotID: string }[]>("/snapshots"))
            await world.delete(`/templates/${snapshotID}`);
          expect(await world.leftovers(), `with ${leftBytes} bytes left`).toEqual([]);
        }
      } finally {
        disk.free();
        await world.stopEmpty();
      }
    },
  );
});

/** Without floors the disk itself refuses, and not the disk guard before it. */
const noFloors = ["--disk-floor-mib", "0", "--save-disk-floor-mib", "0", "--refill-disk-floor-mib", "0"];

/** Adds a process to the recorded machine of a sandbox, for the next daemon to find. */
function addToRecord({ home }: FaultWorld, sandboxId: string, identity: Partial<ProcessIdentity>): void {
  const ledger = new Database(join(home.stateDir, "ledger.db"));
  try {
    ledger
      .prepare("update sandboxes set machine = json_insert(machine, '$.processes[#]', json(?)) where id = ?")
      .run(JSON.stringify(identity), sandboxId);
  } finally {
    ledger.close();
  }
}
