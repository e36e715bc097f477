/** Tear-down: a daemon that stops, is interrupted, or dies while it makes its first template leaves nothing behind. */
import { once } from "node:events";
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DaemonHome, makeDaemonHome } from "../support/daemon/home.ts";
import { missingForRealMachines } from "../support/daemon/real-daemon.ts";
import { createOn, logLines, reservations, sandboxIds } from "../support/daemon/requests.ts";
import { spawnDaemon } from "../support/daemon/starting-daemon.ts";
import { untilStopped } from "../support/daemon/stopped-daemon.ts";

const missing = missingForRealMachines();

describe.skipIf(missing)("tear-down", () => {
  let shared: DaemonHome;
  beforeAll(async () => {
    shared = await makeDaemonHome();
    await (await shared.start()).stop();
  });
  afterAll(() => shared?.[Symbol.asyncDispose]());

  const nothingRuns = (home: DaemonHome) => expect.poll(() => home.processes()).toEqual([]);

  test("a daemon that stops after its sandboxes were killed leaves only the template", async () => {
    const home = shared;
    const daemon = await home.start();
    const made = await Promise.all(Array.from({ length: 6 }, () => createOn(daemon)));
    await Promise.all(made.map((sandbox) => sandbox.commands.run("sleep 600", { background: true })));
    expect(home.engines()).toHaveLength(6);
    await Promise.all(made.map((sandbox) => sandbox.kill()));
    await expect.poll(() => reservations(daemon)).toBe(0);
    expect(home.engines()).toEqual([]);
    expect(await readdir(home.machinesFolder)).toEqual([]);
    expect(await daemon.stop()).toBe(0);
    await nothingRuns(home);
    expect(await readdir(`${home.stateDir}/snapshots`)).toHaveLength(1);
    const sockets = (await readdir(home.stateDir, { recursive: true })).filter((name) => name.endsWith(".sock"));
    expect(sockets).toEqual([]);
  });

  test("Ctrl-C on a busy daemon ends it in time and leaves nothing but sandboxes that run", async () => {
    const home = shared;
    const busy = await home.start();
    const kept = await createOn(busy);
    void kept.commands.run("yes", { timeoutMs: 0 }).catch(() => {});
    const upload = kept.files.write("/tmp/big", new Blob([new Uint8Array(2 ** 26)])).catch((error: Error) => error);
    const creating = Array.from({ length: 4 }, () => createOn(busy).catch((error: Error) => error));
    await delay(50);
    process.kill(busy.pid, "SIGINT");
    await Promise.all([...creating, upload]);
    expect(await busy.exited).toBe(0);
    const engines = home.engines().length;
    expect(await readdir(home.machinesFolder)).toHaveLength(engines);
    // The standby network ends with the daemon. The guards that are left belong to engines, as does every passt.
    const guards = () => home.processes().filter(({ command }) => /^\S*\/packet-guard-\w+ /.test(command)).length;
    await expect.poll(guards).toBe(engines);
    // QEMU, the guard and passt, and a launcher for the first two.
    await expect.poll(() => home.processes().length).toBeLessThanOrEqual(5 * engines);
    await using next = await home.start();
    expect(await sandboxIds(next)).toHaveLength(engines);
    expect(await sandboxIds(next)).toContain(kept.sandboxId);
    expect(await reservations(next)).toBe(engines);
  });

  // Four boots under emulation.
  test("a first start that was killed is begun anew by the next daemon, and leaves nothing", {
    timeout: 400_000,
  }, async () => {
    await using home = await makeDaemonHome({ firstStart: true });
    for (const step of ["made.launched", "made.stopped", "made.saved"] as const) {
      await home.orderFault(step, "SIGKILL");
      await spawnDaemon(home.args, home.env).exited;
      expect(home.engines()).toHaveLength(1);
    }
    await using daemon = await home.start();
    expect(home.engines()).toEqual([]);
    expect(await readdir(home.machinesFolder)).toEqual([]);
    expect(await readdir(`${home.stateDir}/snapshots`)).toHaveLength(1);
    expect(logLines(daemon).map(({ msg }) => msg)).toContain(
      "removing a snapshot that is not needed or was never completed",
    );
    expect((await (await createOn(daemon)).commands.run("echo works")).stdout).toBe("works\n");
  });

  test("a first start that was interrupted by Ctrl-C cleans up after itself at once", async () => {
    await using home = await makeDaemonHome({ firstStart: true });
    for (const step of ["made.launched", "made.warmed"] as const) {
      await home.orderFault(step, "SIGSTOP");
      const first = spawnDaemon(home.args, home.env);
      await untilStopped(first.pid, 120_000);
      await first.end("SIGINT");
      await nothingRuns(home);
      expect(await readdir(home.machinesFolder)).toEqual([]);
      expect(await readdir(`${home.stateDir}/snapshots`)).toEqual([]);
      expect(existsSync(`${home.stateDir}/address.json`)).toBe(false);
    }
  });

  test("a daemon that cannot start says why and leaves nothing", async () => {
    const holder = createServer().listen(0, "127.0.0.1");
    await once(holder, "listening");
    const { port } = holder.address() as AddressInfo;
    try {
      // The daemon refuses before it makes its template: this home has none.
      await using home = await makeDaemonHome({ firstStart: true });
      const early = spawnDaemon([...home.args, "--port", String(port)]);
      expect(await early.exited).toBe(1);
      expect(early.output()).toContain(`Port ${port} is in use.`);
      expect(existsSync(`${home.stateDir}/snapshots`)).toBe(false);
      const refused = spawnDaemon([...shared.args, "--port", String(port)]);
      expect(await refused.exited).toBe(1);
      expect(refused.output()).toContain(`Port ${port} is in use. Choose another with --port.`);
      await nothingRuns(shared);
    } finally {
      holder.close();
    }
  });
});
