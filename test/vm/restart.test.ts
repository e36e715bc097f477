/** Restarts: daemons come and go, however they end. Their sandboxes stay, and nothing else does. */
import { readFileSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import Database from "better-sqlite3";
import { ALL_TRAFFIC, Sandbox } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DaemonHome, makeDaemonHome } from "../support/daemon/home.ts";
import { missingForRealMachines, type RealDaemon } from "../support/daemon/real-daemon.ts";
import { call, connectionTo, createOn, logLines, post, reservations, sandboxIds } from "../support/daemon/requests.ts";
import { killProcess } from "../support/kill-process.ts";

const missing = missingForRealMachines();

describe.skipIf(missing)("restarts", () => {
  let home: DaemonHome;

  beforeAll(async () => {
    home = await makeDaemonHome();
    await (await home.start()).stop();
  });
  afterAll(() => home?.[Symbol.asyncDispose]());

  const sessionOf = (daemon: RealDaemon, sandboxId: string): string => {
    const line = logLines(daemon).find(({ msg, sandboxID }) => msg === "sandbox running" && sandboxID === sandboxId);
    return String(line?.sessionID);
  };
  const engineOf = (sessionId: string) => home.engines().find(({ command }) => command.includes(`/${sessionId}/`));

  test("the daemon after kill -9 has every sandbox, with its id, token and commands, and their output", async () => {
    const first = await home.start();
    const sandbox = await createOn(first, { metadata: { job: "a" } });
    const quiet = await createOn(first);
    const script = "while [ ! -e /tmp/stop ]; do echo tick; sleep 0.1; done; echo bye; exit 5";
    const before = await sandbox.commands.run(script, { background: true, timeoutMs: 0 });
    const broken = before.wait().catch((error: Error) => error);
    const token = await accessToken(first, sandbox.sandboxId);
    await first.kill();
    expect(await broken).toBeInstanceOf(Error);
    expect(home.engines()).toHaveLength(2);

    await using next = await home.start();
    expect(await sandboxIds(next)).toEqual([sandbox.sandboxId, quiet.sandboxId].sort());
    expect(await reservations(next)).toBe(2);
    expect(await accessToken(next, sandbox.sandboxId)).toBe(token);
    const again = await Sandbox.connect(sandbox.sandboxId, connectionTo(next));
    expect((await again.getInfo()).metadata).toEqual({ job: "a" });
    expect(await again.commands.list()).toMatchObject([{ pid: before.pid, cmd: "/bin/bash" }]);
    let ticks = 0;
    const handle = await again.commands.connect(before.pid, { onStdout: () => void ticks++ });
    await expect.poll(() => ticks).toBeGreaterThan(3);
    await again.files.write("/tmp/stop", "");
    const failure = await handle.wait().catch((error) => error);
    expect(failure).toMatchObject({ exitCode: 5, stdout: expect.stringMatching(/bye\n$/) });
    expect((await Sandbox.connect(quiet.sandboxId, connectionTo(next))).sandboxId).toBe(quiet.sandboxId);
  });

  test("the next daemon keeps a network switched off, finishes a half-done switch, and can switch it on", async () => {
    const first = await home.start();
    const sandbox = await createOn(first);
    const half = await createOn(first);
    await sandbox.updateNetwork({ denyOut: [ALL_TRAFFIC] });
    expect([networkOf(sandbox), networkOf(half)]).toEqual(["network-off", "network-on"]);
    await first.kill();
    // As if the daemon had been killed between its write to the ledger and the switch itself.
    withLedger(({ run }) => run("update sandboxes set allow_internet_access = 0 where id = ?", half.sandboxId));

    await using next = await home.start();
    expect([networkOf(sandbox), networkOf(half)]).toEqual(["network-off", "network-off"]);
    const again = await Sandbox.connect(sandbox.sandboxId, connectionTo(next));
    expect((await Sandbox.getFullInfo(sandbox.sandboxId, connectionTo(next))).allowInternetAccess).toBe(false);
    await again.updateNetwork({});
    expect([networkOf(sandbox), networkOf(half)]).toEqual(["network-on", "network-off"]);
  });

  interface LedgerAccess {
    readonly get: (sql: string, id: string) => unknown;
    readonly run: (sql: string, id: string) => void;
  }
  function withLedger<T>(use: (ledger: LedgerAccess) => T): T {
    const db = new Database(join(home.stateDir, "ledger.db"));
    try {
      return use({
        get: (sql, id) => db.prepare<[string]>(sql).pluck().get(id),
        run: (sql, id) => void db.prepare<[string]>(sql).run(id),
      });
    } finally {
      db.close();
    }
  }

  /** The name that the packet guard of a sandbox has as a process: it says whether the network is on. */
  function networkOf({ sandboxId }: Sandbox): string {
    const machine = withLedger(({ get }) => get("select machine from sandboxes where id = ?", sandboxId));
    const { processes } = JSON.parse(String(machine)) as { processes: { role: string; pid: number }[] };
    const pid = processes.find(({ role }) => role === "network")?.pid;
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  }

  test("the next daemon learns the exit code of a command that ended while there was no daemon", async () => {
    const first = await home.start();
    const sandbox = await createOn(first);
    const { pid } = await sandbox.commands.run("sleep 1; echo late; exit 9", { background: true });
    await first.kill();
    await delay(3_000);
    await using next = await home.start();
    const again = await Sandbox.connect(sandbox.sandboxId, connectionTo(next));
    const end = await again.commands.connect(pid).then((handle) => handle.wait().catch((error) => error));
    expect(end).toMatchObject({ exitCode: 9 });
  });

  test("the next daemon ends sandboxes whose time came meanwhile, and says why another is lost", async () => {
    const first = await home.start();
    const expired = await createOn(first);
    const killed = await createOn(first);
    const kept = await createOn(first);
    const [expiredSession, killedSession] = [expired, killed].map(({ sandboxId }) => sessionOf(first, sandboxId));
    await expired.setTimeout(4_000);
    await first.kill();
    killProcess(engineOf(killedSession ?? "")?.pid, "SIGKILL");
    await delay(4_000);
    expect(engineOf(expiredSession ?? "")).toBeDefined();

    await using next = await home.start();
    await expect.poll(() => sandboxIds(next)).toEqual([kept.sandboxId]);
    await expect.poll(() => reservations(next)).toBe(1);
    await expect.poll(() => readdir(home.machinesFolder)).toEqual([sessionOf(next, kept.sandboxId)]);
    expect(home.engines()).toHaveLength(1);
    expect(logLines(next)).toContainEqual(
      expect.objectContaining({
        msg: "sandbox cannot be adopted",
        sandboxID: killed.sandboxId,
        reason: "its machine is gone",
      }),
    );
  });

  test("the daemon after SIGTERM goes on with the machines that the first one left running", async () => {
    const first = await home.start();
    const sandbox = await createOn(first);
    await sandbox.files.write("/tmp/kept", "1");
    expect(await first.stop()).toBe(0);
    expect(home.processes().filter(({ command }) => command.includes(" serve "))).toEqual([]);
    expect(home.engines()).toHaveLength(1);
    await using next = await home.start();
    const again = await Sandbox.connect(sandbox.sandboxId, connectionTo(next));
    expect(await again.files.read("/tmp/kept")).toBe("1");
    await again.kill();
    await expect.poll(() => home.engines()).toEqual([]);
  });

  test("a daemon is refused while another runs on the same state, and learns the pid of the other", async () => {
    await using first = await home.start();
    await expect(home.start()).rejects.toThrow(`Another firkin daemon (pid ${first.pid})`);
    expect((await call(first, "/health")).status).toBe(204);
  });

  test("the next daemon leaves nothing of a sandbox that was being made when the first one was killed", async () => {
    for (const afterMs of [0, 15, 30, 45, 60, 80, 100, 120, 150, 200]) {
      const first = await home.start();
      const creating = post(first, "/sandboxes", { templateID: "base", timeout: 300 });
      creating.catch(() => {});
      await delay(afterMs);
      await first.kill();
      await using next = await home.start();
      const ids = await sandboxIds(next);
      expect(ids.length, `after ${afterMs} ms`).toBeLessThan(2);
      await expect.poll(() => reservations(next)).toBe(ids.length);
      expect(home.engines(), `after ${afterMs} ms`).toHaveLength(ids.length);
      expect(await readdir(home.machinesFolder), `after ${afterMs} ms`).toHaveLength(ids.length);
    }
    await expect.poll(() => home.processes()).toEqual([]);
  });
});

async function accessToken(daemon: RealDaemon, sandboxId: string): Promise<unknown> {
  const answer = await post(daemon, `/sandboxes/${sandboxId}/connect`, { timeout: 60 });
  return ((await answer.json()) as { envdAccessToken: unknown }).envdAccessToken;
}
