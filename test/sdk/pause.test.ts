/** Pause and resume through the unmodified SDKs, on real machines: processes go on, and promises hold. */
import { rm } from "node:fs/promises";
import { SandboxNotFoundError } from "e2b";
import { describe, expect, test } from "vitest";
import {
  api,
  connection,
  createSandbox,
  generations,
  Sandbox,
  sharedDaemon,
  skipReason,
} from "../support/clients/sdk.ts";
import { startDaemon } from "../support/daemon/real-daemon.ts";
import { connectionTo, createOn, post } from "../support/daemon/requests.ts";

/**
 * A process that counts in its own memory, ten times a second, and shows the count in a file of a memory file system.
 * The file is replaced in one step, so that no reader finds it empty.
 */
const counter =
  "python3 -u -c \"import os, time\nn=0\nwhile True:\n n+=1\n open('/dev/shm/next','w').write(str(n))\n os.replace('/dev/shm/next','/dev/shm/count')\n time.sleep(0.1)\"";

async function startCounter(sandbox: Sandbox): Promise<number> {
  const handle = await sandbox.commands.run(counter, { background: true, timeoutMs: 0 });
  await expect.poll(() => countOf(sandbox)).toBeGreaterThan(3);
  return handle.pid;
}

const countOf = async (sandbox: Sandbox) => {
  const { stdout } = await sandbox.commands.run("cat /dev/shm/count 2>/dev/null || echo 0");
  return Number(stdout);
};

describe.skipIf(skipReason)("pause", () => {
  describe.each(generations)("%s", (_, sdk) => {
    test("a process and its memory go on after pause and connect, under the same id and token", async () => {
      await using made = await createSandbox({ envs: { MINE: "1" } }, sdk);
      const { sandbox } = made;
      const pid = await startCounter(sandbox);
      expect(await sandbox.pause()).toBe(true);
      expect(await sandbox.betaPause()).toBe(false);
      const info = await sandbox.getInfo();
      expect(info.state).toBe("paused");
      expect(Math.abs(info.endAt.getTime() - Date.now())).toBeLessThan(20_000);
      expect(await sandbox.isRunning()).toBe(false);
      // The samples from before the pause are kept, and there are no others.
      expect((await sandbox.getMetrics()).filter(({ timestamp }) => timestamp > info.endAt)).toEqual([]);
      await expect(sandbox.setTimeout(10_000)).rejects.toThrow(/paused|not found/i);
      await expect(sandbox.commands.run("true")).rejects.toThrow(/not running anymore/);
      const again = await sdk.Sandbox.connect(sandbox.sandboxId, { ...connection(), timeoutMs: 90_000 });
      expect((await again.getInfo()).state).toBe("running");
      // The handle from before has the old token, which still works.
      const resumedAt = await countOf(sandbox);
      await expect.poll(() => countOf(again)).toBeGreaterThan(resumedAt);
      expect((await again.commands.list()).map((each) => each.pid)).toContain(pid);
      const { stdout } = await again.commands.run("date +%s.%N; echo $MINE $E2B_SANDBOX_ID; hostname");
      const [seconds, envs, hostname] = stdout.split("\n");
      expect(Math.abs(Number(seconds) * 1000 - Date.now())).toBeLessThan(10_000);
      expect([envs, hostname]).toEqual([`1 ${sandbox.sandboxId}`, sandbox.sandboxId]);
      expect(await again.commands.kill(pid)).toBe(true);
    });
  });

  test("a running command can be connected to again after a resume, and its open files and timers went on", async () => {
    await using made = await createSandbox();
    const { sandbox } = made;
    const waiting = "until test -e /tmp/go; do sleep 0.2; done";
    const script = `exec 3>/tmp/open; echo before >&3; ${waiting}; echo after >&3; echo done`;
    const handle = await sandbox.commands.run(script, { background: true, timeoutMs: 0 });
    handle.wait().catch(() => {});
    await expect.poll(() => sandbox.files.exists("/tmp/open")).toBe(true);
    await sandbox.pause();
    const again = await sandbox.connect();
    const connected = await again.commands.connect(handle.pid, { timeoutMs: 0 });
    await again.files.write("/tmp/go", "");
    expect((await connected.wait()).stdout).toBe("done\n");
    expect(await again.files.read("/tmp/open")).toBe("before\nafter\n");
  });

  test("disk and memory last over three pauses, and each resume brings its environment", async () => {
    await using made = await createSandbox();
    const { sandbox } = made;
    await startCounter(sandbox);
    let last = 0;
    for (const round of ["one", "two", "three"]) {
      await sandbox.commands.run(`echo ${round} >> ~/rounds; head -c 3000000 /dev/urandom > /dev/shm/${round}`);
      await sandbox.pause();
      const order = { timeout: 100, envVars: { ROUND: round } };
      const answer = await post(sharedDaemon(), `/sandboxes/${sandbox.sandboxId}/resume`, order);
      expect(answer.status).toBe(201);
      expect((await sandbox.commands.run("echo $ROUND")).stdout).toBe(`${round}\n`);
      const count = await countOf(sandbox);
      expect(count).toBeGreaterThan(last);
      last = count;
    }
    // These three and no others, because the counter's own files come and go.
    const { stdout } = await sandbox.commands.run("cat ~/rounds; ls /dev/shm/one /dev/shm/two /dev/shm/three | wc -l");
    expect(stdout).toBe("one\ntwo\nthree\n3\n");
    const twice = await api(`/sandboxes/${sandbox.sandboxId}/resume`, { method: "POST" });
    expect([twice.status, await twice.json()]).toEqual([
      409,
      { code: 409, message: `Sandbox ${sandbox.sandboxId} is already running` },
    ]);
  });

  test("a paused sandbox can be killed, and is gone then", async () => {
    const { sandbox } = await createSandbox();
    await sandbox.pause();
    expect(await sandbox.kill()).toBe(true);
    expect(await sandbox.kill()).toBe(false);
    await expect(sandbox.connect()).rejects.toThrow(SandboxNotFoundError);
    await expect(sandbox.pause()).rejects.toThrow(SandboxNotFoundError);
  });

  test("a sandbox with onTimeout pause is paused when its time is up, and any traffic brings it back", async () => {
    const lifecycle = { onTimeout: "pause", autoResume: true } as const;
    await using made = await createSandbox({ lifecycle });
    const { sandbox } = made;
    await startCounter(sandbox);
    await sandbox.setTimeout(1_000);
    const stateOf = async () => (await sandbox.getInfo()).state;
    await expect.poll(stateOf).toBe("paused");
    expect((await sandbox.getInfo()).lifecycle).toMatchObject({ onTimeout: "pause", autoResume: true });
    const count = await countOf(sandbox);
    expect(count).toBeGreaterThan(3);
    const info = await sandbox.getInfo();
    expect(info.state).toBe("running");
    expect(info.endAt.getTime() - Date.now()).toBeGreaterThan(200_000);
    await sandbox.pause();
    expect((await sandbox.files.read("/etc/hostname")).trim()).toBe(sandbox.sandboxId);
  });

  test("a daemon that is killed while sandboxes are paused and running finds all of them again", async () => {
    const first = await startDaemon();
    try {
      const [sleeping, awake] = await Promise.all([createOn(first), createOn(first)]);
      for (const sandbox of [sleeping, awake]) await startCounter(sandbox);
      const before = await countOf(sleeping);
      await sleeping.pause();
      await first.kill();
      await using second = await startDaemon({ stateDir: first.stateDir });
      const there = connectionTo(second);
      expect((await Sandbox.getInfo(sleeping.sandboxId, there)).state).toBe("paused");
      expect(second.log()).toContain('"adopted":1,"paused":1,"cleanedUp":0,"lost":0,"orphanFolders":0');
      expect(await countOf(await Sandbox.connect(awake.sandboxId, there))).toBeGreaterThan(3);
      const resumed = await Sandbox.connect(sleeping.sandboxId, { ...there, timeoutMs: 300_000 });
      const count = await countOf(resumed);
      expect(count).toBeGreaterThanOrEqual(before);
      await expect.poll(() => countOf(resumed)).toBeGreaterThan(count);
    } finally {
      await rm(first.stateDir, { recursive: true, force: true });
    }
  });
});
