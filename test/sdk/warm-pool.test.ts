/** The warm pool on real machines, with a daemon of its own: hits, identity, and no remains after a stop or a crash. */
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { Sandbox } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { skipReason } from "../support/clients/sdk.ts";
import { runningEngines } from "../support/daemon/engine-processes.ts";
import { newStateDir, type RealDaemon, startDaemon } from "../support/daemon/real-daemon.ts";
import { connectionTo, createOn, metric as metricOf } from "../support/daemon/requests.ts";
import { killProcess } from "../support/kill-process.ts";

const pool = ["--warm-pool-min", "2", "--warm-pool-max", "2"];

describe.skipIf(skipReason)("warm pool", () => {
  let stateDir: string;
  let daemon: RealDaemon;

  beforeAll(async () => {
    stateDir = await newStateDir();
    daemon = await startDaemon({ stateDir, args: pool });
  });
  afterAll(async () => {
    await daemon?.[Symbol.asyncDispose]();
    await rm(stateDir, { recursive: true, force: true });
  });

  const connection = () => connectionTo(daemon);
  const create = (envs: Record<string, string> = {}) => createOn(daemon, { timeoutMs: 300_000, envs });
  /** A counter that nothing has counted yet is not published. */
  const metric = async (name: string) => (await metricOf(daemon, name)) || 0;
  const hits = () => metric('firkin_warm_pool_checkouts_total{outcome="hit"}');
  const ready = () => metric('firkin_warm_pool_depth{state="ready"}');
  const isFull = () => expect.poll(ready, { timeout: 60_000, interval: 200 }).toBe(2);

  test("a sandbox from a hit is like any other, with an identity of its own", async () => {
    await isFull();
    const before = await hits();
    const made = await Promise.all([create({ WHO: "one" }), create({ WHO: "two" })]);
    expect((await hits()) - before).toBe(2);
    const script = [
      "hostname",
      "cat /etc/hostname /run/e2b/.E2B_SANDBOX_ID",
      "echo; grep -c $(hostname) /etc/hosts",
      'echo "$WHO $E2B_SANDBOX_ID $E2B_SANDBOX"',
      "python3 -c 'import uuid; print(uuid.uuid4())'",
      "date +%s",
      // Not through a pipe, because the process that bash starts for a pipe is a bash for a moment as well.
      "whoami; pwd; pgrep -x bash > /tmp/shells; grep -c . /tmp/shells",
    ].join("; ");
    const seen = await Promise.all(made.map(async (it) => (await it.commands.run(script)).stdout.split("\n")));
    for (const [n, sandbox] of made.entries()) {
      const [name, fileName, marker, hosts, envs, , seconds, user, cwd, shells] = seen[n] ?? [];
      const id = sandbox.sandboxId;
      expect([name, fileName, marker, hosts]).toEqual([id, id, id, "1"]);
      expect(envs).toBe(`${n === 0 ? "one" : "two"} ${id} true`);
      expect(Math.abs(Number(seconds) - Date.now() / 1000)).toBeLessThan(30);
      // The command that warmed the machine is over.
      expect([user, cwd, shells]).toEqual(["user", "/home/user", "1"]);
    }
    expect(seen[0]?.[5]).not.toBe(seen[1]?.[5]);
    const [one, two] = made;
    const stolen = await fetch(`${daemon.url}/files?path=/etc/hostname`, {
      headers: {
        "e2b-sandbox-id": one?.sandboxId ?? "",
        "e2b-sandbox-port": "49983",
        "x-access-token": (two as unknown as { envdAccessToken: string }).envdAccessToken,
      },
    });
    expect(stolen.ok).toBe(false);
    await one?.files.write("/tmp/mine", "1");
    expect(await two?.files.exists("/tmp/mine")).toBe(false);
    await Promise.all(made.map((it) => it.kill()));
  });

  test("the daemon after a killed one finds the warm machines again, and the sandboxes made from others", async () => {
    await isFull();
    const sandbox = await create();
    await isFull();
    const folders = (await readdir(join(stateDir, "machines"))).sort();
    await daemon.kill();
    daemon = await startDaemon({ stateDir, args: pool });
    expect((await readdir(join(stateDir, "machines"))).sort()).toEqual(folders);
    expect(await ready()).toBe(2);
    expect(await metric('firkin_reconciled_total{outcome="warmAdopted"}')).toBe(2);
    const again = await Sandbox.connect(sandbox.sandboxId, connection());
    expect((await again.commands.run("hostname")).stdout).toBe(`${sandbox.sandboxId}\n`);
    const hit = await create();
    expect(await hits()).toBe(1);
    expect((await hit.commands.run("hostname")).stdout).toBe(`${hit.sandboxId}\n`);
    await Promise.all([again.kill(), hit.kill()]);
  });

  test("a daemon that is killed in the middle of refilling leaves no unknown machine", async () => {
    for (const afterMs of [40, 120, 250]) {
      await isFull();
      const sandbox = await create();
      // A look that comes too late finds the refill done, which is a moment to die at like any other.
      const isRefilling = async () =>
        (await metric('firkin_warm_pool_depth{state="warming"}')) === 1 || (await ready()) === 2;
      await expect.poll(isRefilling, { interval: 5 }).toBe(true);
      await new Promise((resolve) => setTimeout(resolve, afterMs));
      await daemon.kill();
      daemon = await startDaemon({ stateDir, args: pool });
      await (await Sandbox.connect(sandbox.sandboxId, connection())).kill();
      await isFull();
      const known = () => readdir(join(stateDir, "machines"));
      await expect.poll(async () => (await known()).length).toBe(2);
      expect(runningEngines(stateDir)).toHaveLength(2);
      expect(await metric('firkin_capacity{budget="sandboxes",kind="warm"}')).toBe(2);
    }
  });

  test("a warm machine whose process is killed is replaced", async () => {
    await isFull();
    const [pid] = runningEngines(stateDir);
    if (pid === undefined) throw new Error("there is no machine");
    killProcess(pid, "SIGKILL");
    await expect.poll(() => metric('firkin_warm_pool_discards_total{reason="died"}')).toBe(1);
    await isFull();
    expect(runningEngines(stateDir)).toHaveLength(2);
  });

  test("after kill and stop there is no process and no folder", async () => {
    await isFull();
    const sandbox = await create();
    await sandbox.kill();
    expect(await daemon.stop()).toBe(0);
    expect(await readdir(join(stateDir, "machines"))).toEqual([]);
    expect(runningEngines(stateDir)).toEqual([]);
  });
});
