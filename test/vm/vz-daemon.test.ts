/**
 * The vz engine end to end, on the simulated framework: the built daemon, the unmodified SDK, one helper per sandbox.
 * Guests are local processes, so a saved state holds files in memory but no processes.
 */
import { readdirSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Sandbox } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runningEngines } from "../support/daemon/engine-processes.ts";
import { type RealDaemon, startDaemon } from "../support/daemon/real-daemon.ts";
import { call, connectionTo, createOn, post } from "../support/daemon/requests.ts";
import {
  missingForSimulation,
  type SimulatedFramework,
  type SimulatedSettings,
  simulateFramework,
} from "../support/fakes/simulated-framework.ts";
import { newShortFolder } from "../support/short-folder.ts";
import { titleOf } from "../support/skipped-title.ts";

const missing = await missingForSimulation();
const named = (title: string) => titleOf(`the E2B SDK on the vz engine and the simulated framework: ${title}`, missing);

/** A simulated Mac for the tests of a group, and what starts daemons on it. */
function useMac(settings: SimulatedSettings) {
  let root = "";
  let mac: SimulatedFramework;
  beforeAll(async () => {
    root = await newShortFolder();
    mac = await simulateFramework(join(root, "mac"), settings);
    const { kernel, initramfs, baseDisk } = mac;
    await mkdir(join(root, "cache/assets"), { recursive: true });
    const assets = { kernel, initramfs, baseDisk, kernelVersion: "simulated", agent: "/none" };
    await writeFile(join(root, "cache/assets/assets.json"), JSON.stringify(assets));
  });
  afterAll(() => rm(root, { recursive: true, force: true }));
  const entries = (folder: string) => readdirSync(join(root, "s", folder));
  return {
    set: (changes: SimulatedSettings) => mac.set(changes),
    lockScreen: (locked: boolean) => mac.lockScreen(locked),
    start: (...args: string[]): Promise<RealDaemon> =>
      startDaemon({
        stateDir: join(root, "s"),
        args: ["--engine", "vz", "--vz-helper", mac.helper, "--cache-dir", join(root, "cache"), ...args],
      }),
    helpers: () => runningEngines(join(root, "s"), "firkin-vz"),
    machines: () => entries("machines"),
    snapshots: () => entries("snapshots"),
  };
}

const create = (daemon: RealDaemon) => createOn(daemon, { timeoutMs: 120_000 });
const connect = (daemon: RealDaemon, id: string) =>
  Sandbox.connect(id, { timeoutMs: 120_000, ...connectionTo(daemon) });
const output = async (sandbox: Sandbox, command: string) => (await sandbox.commands.run(command)).stdout.trim();

describe.skipIf(missing).each([
  [named("one snapshot starts many machines"), true],
  [named("one snapshot starts one machine"), false],
])("%s", (_, fanOut) => {
  const mac = useMac({ fanOut });

  test("sandboxes are created, used, paused, resumed and killed, and leave nothing", async () => {
    await using daemon = await mac.start();
    const sandbox = await create(daemon);
    expect(await output(sandbox, "echo $((6*7))")).toBe("42");
    await sandbox.files.write("/home/user/a.txt", "on disk");
    await sandbox.commands.run("echo in memory > /dev/shm/note");
    expect(await sandbox.pause()).toBe(true);
    await expect.poll(mac.helpers).toEqual([]);
    const resumed = await connect(daemon, sandbox.sandboxId);
    expect(await output(resumed, "cat /home/user/a.txt /dev/shm/note")).toBe("on diskin memory");
    const other = await create(daemon);
    expect(await output(other, "ls /home/user /dev/shm")).not.toContain("note");
    await expect.poll(mac.helpers).toHaveLength(2);
    await Promise.all([resumed.kill(), other.kill()]);
    await expect.poll(mac.helpers).toEqual([]);
    await expect.poll(mac.machines).toEqual([]);
  });

  test("helpers outlive a daemon that is killed, and the next one takes them over", async () => {
    const first = await mac.start();
    const sandbox = await create(first);
    await sandbox.commands.run("echo kept > /dev/shm/note");
    const pids = mac.helpers();
    await first.kill();
    // Where one snapshot starts one machine, a machine that makes another snapshot may have been running, too.
    expect(mac.helpers().some((pid) => pids.includes(pid))).toBe(true);
    await using next = await mac.start();
    expect(await output(await connect(next, sandbox.sandboxId), "cat /dev/shm/note")).toBe("kept");
  });

  test("after a daemon was killed while a helper saved, the sandbox is back and the half snapshot is gone", async () => {
    await mac.set({ saveMs: 10_000 });
    const first = await mac.start();
    const sandbox = await create(first);
    await mac.set({});
    await sandbox.commands.run("echo kept > /dev/shm/note");
    const before = mac.snapshots();
    const pausing = sandbox.pause().catch((error: Error) => error);
    const half = () => mac.snapshots().filter((name) => name.endsWith(".staging") && !before.includes(name));
    await expect.poll(half).not.toEqual([]);
    const halves = half().map((name) => name.replace(".staging", ""));
    await first.kill();
    expect(await pausing).toBeInstanceOf(Error);
    await using next = await mac.start();
    expect(await output(await connect(next, sandbox.sandboxId), "cat /dev/shm/note")).toBe("kept");
    // Where one snapshot starts one machine, others come and go, because a daemon keeps some more ready.
    if (fanOut) expect(mac.snapshots()).toEqual(before);
    expect(mac.snapshots().filter((name) => halves.some((id) => name.startsWith(id)))).toEqual([]);
  });

  test("under a locked screen sandboxes are booted and paused in memory, and a resume is refused", async () => {
    await using daemon = await mac.start();
    const sandbox = await create(daemon);
    const resting = await create(daemon);
    await resting.pause();
    await mac.lockScreen(true);
    try {
      const refused = await post(daemon, `/sandboxes/${resting.sandboxId}/resume`);
      expect(refused.status).toBe(503);
      expect(await refused.text()).toContain("the screen is locked");
      expect(await sandbox.pause()).toBe(true);
      expect(await output(await connect(daemon, sandbox.sandboxId), "echo still here")).toBe("still here");
      expect(await output(await create(daemon), "echo booted")).toBe("booted");
    } finally {
      await mac.lockScreen(false);
    }
    expect(await sandbox.pause()).toBe(true);
    expect(await output(await connect(daemon, sandbox.sandboxId), "echo again")).toBe("again");
  });

  test("a sandbox paused under a locked screen stands still in memory until it is resumed or saved", async () => {
    const first = await mac.start();
    const sandbox = await create(first);
    await sandbox.commands.run("while sleep 0.05; do date +%s%N > /dev/shm/ticks; done", { background: true });
    await expect.poll(() => output(sandbox, "cat /dev/shm/ticks")).not.toBe("");
    const { sandboxId } = sandbox;
    const kept = async (daemon: RealDaemon) => {
      const capacity = await (await call(daemon, "/capacity")).json();
      return (capacity as { pausedInMemory: number }).pausedInMemory;
    };
    await mac.lockScreen(true);
    try {
      expect(await sandbox.pause()).toBe(true);
      expect((await Sandbox.getInfo(sandboxId, connectionTo(first))).state).toBe("paused");
      expect(await kept(first)).toBe(1);
      const pids = mac.helpers();
      await first.kill();
      await using next = await mac.start();
      expect(await kept(next)).toBe(1);
      expect(mac.helpers().some((pid) => pids.includes(pid))).toBe(true);
      // The daemon remembers from before what the host can do.
      expect(next.log()).toMatch(new RegExp(`"works":${fanOut},.*"remembered":true,"msg":"fan-out probe"`));
      const resumed = await connect(next, sandboxId);
      const tick = await output(resumed, "cat /dev/shm/ticks");
      await expect.poll(() => output(resumed, "cat /dev/shm/ticks")).not.toBe(tick);
      expect(await resumed.pause()).toBe(true);
      expect(await kept(next)).toBe(1);
      await mac.lockScreen(false);
      await expect.poll(() => kept(next), { timeout: 30_000 }).toBe(0);
      expect((await Sandbox.getInfo(sandboxId, connectionTo(next))).state).toBe("paused");
      expect(mac.helpers().some((pid) => pids.includes(pid))).toBe(false);
      expect(await output(await connect(next, sandboxId), "test -s /dev/shm/ticks && echo kept")).toBe("kept");
    } finally {
      await mac.lockScreen(false);
    }
  });
});

describe.skipIf(missing)(named("a screen that is locked at the first start"), () => {
  const mac = useMac({});

  test("a first daemon starts under a locked screen, boots its sandboxes, and saves memory once it is unlocked", async () => {
    await mac.lockScreen(true);
    await using daemon = await mac.start("--warm-pool-max", "0");
    expect(daemon.log()).toContain("this host saves no machines now");
    const sandbox = await create(daemon);
    expect(await output(sandbox, "echo booted")).toBe("booted");
    expect(await spansOf(daemon, sandbox.sandboxId)).toContain("cold_boot");
    await sandbox.commands.run("echo kept > /dev/shm/note");
    expect(await sandbox.pause()).toBe(true);
    await mac.lockScreen(false);
    expect(await output(await connect(daemon, sandbox.sandboxId), "cat /dev/shm/note")).toBe("kept");
    // The host is probed again after half a minute, and the template then made again with its memory.
    await expect.poll(() => daemon.log(), { timeout: 150_000 }).toMatch(/"remembered":false,"msg":"fan-out probe"/);
  });
});

describe.skipIf(missing)(named("the shelf"), () => {
  const mac = useMac({});

  test("where one snapshot starts one machine, sandboxes have snapshots of their own while the shelf lasts", async () => {
    await using daemon = await mac.start("--warm-pool-max", "0");
    const whole = () => mac.snapshots().filter((name) => !name.includes("."));
    const madeAhead = () => [whole().length, mac.helpers().length];
    await expect.poll(madeAhead, { timeout: 150_000, interval: 500 }).toEqual([1 + 2, 0]);
    const sandboxes = [await create(daemon), await create(daemon), await create(daemon), await create(daemon)];
    const starts = await Promise.all(sandboxes.map((sandbox) => spansOf(daemon, sandbox.sandboxId)));
    const restored = "warm_snapshot_restore";
    expect(starts.map((spans) => (spans.includes(restored) ? restored : "cold_boot"))).toEqual([
      restored,
      restored,
      restored,
      "cold_boot",
    ]);
    const bootIds = await Promise.all(
      sandboxes.map((sandbox) => output(sandbox, "cat /proc/sys/kernel/random/boot_id")),
    );
    expect(new Set(bootIds).size).toBe(4);
  });
});

/** The spans that the start of a sandbox was made of. */
async function spansOf(daemon: RealDaemon, id: string): Promise<string[]> {
  const latency = await (await call(daemon, `/sandboxes/${id}/latency`)).json();
  const { samples } = latency as { samples: { span: string }[] };
  return samples.map(({ span }) => span);
}
