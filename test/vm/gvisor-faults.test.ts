/** Faults that only the gVisor engine has: those of the processes of a box. The fault table is in `faults.test.ts`. */
import { Sandbox } from "e2b";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { missingForGvisor } from "../support/daemon/gvisor.ts";
import { missingForRealMachines } from "../support/daemon/real-daemon.ts";
import { connectionTo } from "../support/daemon/requests.ts";
import { partOf } from "../support/faults/machine-parts.ts";
import { FaultWorld } from "../support/faults/world.ts";
import { killProcess } from "../support/kill-process.ts";
import { titleOf } from "../support/skipped-title.ts";

const missing = missingForRealMachines() ?? missingForGvisor();

describe.skipIf(missing)(titleOf("faults of a box", missing), () => {
  let world: FaultWorld;
  beforeAll(async () => {
    world = await FaultWorld.open("gvisor");
  });
  afterAll(() => world?.[Symbol.asyncDispose]());
  beforeEach(() => world.subjectIs("running"));

  const messagesOf = async (id: string) => {
    const { logs } = await world.get<{ logs: { message: string }[] }>(`/v2/sandboxes/${id}/logs`);
    return logs.map(({ message }) => message).join("\n");
  };

  test.each(["keeper", "launcher", "sandbox"] as const)(
    "a machine whose %s is killed is lost, and says so",
    async (part) => {
      const { id } = world.subject;
      killProcess(partOf(world, part), "SIGKILL");
      await expect.poll(() => world.stateOf(id)).toBe("gone");
      expect(world.endReasonOf(id)).toBe("machine_died");
      expect(await messagesOf(id)).toContain("The sandbox's machine died");
      expect(await world.leftovers()).toEqual([]);
      await world.bystanderCounts();
    },
  );

  test("a machine whose gofer is killed has its files, and can be paused", async () => {
    const { subject } = world;
    const sandbox = await Sandbox.connect(subject.id, connectionTo(world.daemon));
    await sandbox.files.write("/home/user/before", "1");
    killProcess(partOf(world, "gofer"), "SIGKILL");
    await sandbox.files.write("/home/user/after", "2");
    expect((await world.post(`/sandboxes/${subject.id}/pause`))?.status).toBe(204);
    await world.counts(subject);
    expect((await sandbox.commands.run("cat /home/user/before /home/user/after")).stdout).toBe("12");
    expect(await world.leftovers()).toEqual([]);
  });

  test("a machine whose packet guard is killed goes on, and has another one after a pause", async () => {
    const { subject } = world;
    killProcess(partOf(world, "guard"), "SIGKILL");
    await world.counts(subject);
    expect((await world.post(`/sandboxes/${subject.id}/pause`))?.status).toBe(204);
    await world.counts(subject);
    expect(await world.leftovers()).toEqual([]);
  });

  test.each(["keeper", "sandbox"] as const)(
    "a pause of a machine whose %s stands still is done once it goes on",
    async (part) => {
      const { subject } = world;
      const pid = partOf(world, part);
      killProcess(pid, "SIGSTOP");
      try {
        const answer = await world.post(`/sandboxes/${subject.id}/pause`);
        expect([answer?.status, await answer?.text()]).toEqual([
          504,
          expect.stringContaining("is paused once it does"),
        ]);
      } finally {
        killProcess(pid, "SIGCONT");
      }
      await expect.poll(() => world.ledgerStateOf(subject.id), { timeout: 90_000 }).toBe("paused");
      await world.counts(subject);
      expect(await world.leftovers()).toEqual([]);
    },
  );

  test("after a restart of the host paused sandboxes come back, and those that ran are lost by name", async () => {
    const { subject } = world;
    const paused = await world.makeCounted();
    expect((await world.post(`/sandboxes/${paused.id}/pause`))?.status).toBe(204);
    await world.daemon.kill();
    for (const { pid } of world.home.engines()) killProcess(pid, "SIGKILL");
    await world.start(0);
    await expect.poll(() => world.stateOf(subject.id)).toBe("gone");
    expect(world.endReasonOf(subject.id)).toBe("lost");
    await world.counts(paused);
    const sandbox = await Sandbox.connect(paused.id, connectionTo(world.daemon));
    await sandbox.kill();
    expect(await world.leftovers()).toEqual([]);
  });
});
