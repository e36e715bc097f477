/** Losses and moves of what a daemon remembers by: its ledger, its state folder, the format of its snapshots. */
import { existsSync, readdirSync } from "node:fs";
import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Sandbox } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { testedEngine } from "../support/daemon/engine-processes.ts";
import { type DaemonHome, makeDaemonHome } from "../support/daemon/home.ts";
import { missingForRealMachines, type RealDaemon, startDaemon } from "../support/daemon/real-daemon.ts";
import { connectionTo, createOn, logLines, reservations, sandboxIds } from "../support/daemon/requests.ts";

const missing = missingForRealMachines();

describe.skipIf(missing)("losses and moves", () => {
  let home: DaemonHome;
  const ledger = () => join(home.stateDir, "ledger.db");

  beforeAll(async () => {
    home = await makeDaemonHome();
    await (await home.start()).stop();
  });
  afterAll(() => home?.[Symbol.asyncDispose]());

  const remembered = (sandbox: Sandbox) => sandbox.commands.run("cat /dev/shm/mark").then(({ stdout }) => stdout);
  async function createMarked(daemon: RealDaemon, mark: string): Promise<Sandbox> {
    const sandbox = await createOn(daemon, { metadata: { mark } });
    await sandbox.commands.run(`echo -n ${mark} > /dev/shm/mark`);
    return sandbox;
  }

  test("without its ledger and without a backup a daemon takes up the running and the paused sandbox", async () => {
    const first = await home.start();
    const [runs, rests] = [await createMarked(first, "runs"), await createMarked(first, "rests")];
    await rests.pause();
    await first.kill();
    await rm(join(home.stateDir, "backups"), { recursive: true, force: true });
    for (const part of ["", "-wal", "-shm"]) await rm(`${ledger()}${part}`, { force: true });

    await using next = await home.start();
    expect(logLines(next).map(({ msg }) => msg)).toContain("the ledger was rebuilt");
    expect(await sandboxIds(next)).toEqual([runs.sandboxId, rests.sandboxId].sort());
    expect(await reservations(next)).toBe(1);
    for (const [sandbox, mark] of [
      [runs, "runs"],
      [rests, "rests"],
    ] as const) {
      const again = await Sandbox.connect(sandbox.sandboxId, connectionTo(next));
      expect(await remembered(again)).toBe(mark);
      expect((await again.getInfo()).metadata).toEqual({ mark });
    }
    // The template was made anew, and works.
    expect(await remembered(await createMarked(next, "new"))).toBe("new");
    expect(home.engines()).toHaveLength(3);
  });

  test("a paused sandbox comes back after its state folder was moved, and after it had a manifest of format 1", async () => {
    const first = await home.start();
    const sandbox = await createMarked(first, "moved");
    await sandbox.pause();
    await first.stop();
    const [folder = ""] = readdirSync(join(home.stateDir, "snapshots")).filter((name) =>
      existsSync(join(home.stateDir, "snapshots", name, "sandbox.json")),
    );
    const manifest = JSON.parse(await readFile(join(home.stateDir, "snapshots", folder, "manifest.json"), "utf8"));
    expect(manifest).toMatchObject({ formatVersion: 2, cpuClass: expect.any(String) });
    expect(JSON.stringify(manifest)).not.toContain(dirname(home.stateDir));
    expect(JSON.stringify(manifest)).not.toContain('"/');

    const moved = `${home.stateDir}-2`;
    await rename(home.stateDir, moved);
    try {
      const args = ["--cache-dir", join(dirname(home.stateDir), "cache")];
      const there = await startDaemon({ stateDir: moved, args });
      try {
        const again = await Sandbox.connect(sandbox.sandboxId, connectionTo(there));
        expect(await remembered(again)).toBe("moved");
        await again.pause();
      } finally {
        await there.stop();
      }
    } finally {
      await rename(moved, home.stateDir);
    }
    // The engine gvisor is younger than the format.
    if (testedEngine === "qemu") await makeEarlier(join(home.stateDir, "snapshots"));
    await using back = await home.start();
    const again = await Sandbox.connect(sandbox.sandboxId, connectionTo(back));
    expect(await remembered(again)).toBe("moved");
    // Its next pause is of today's format.
    await again.pause();
    expect(await remembered(await Sandbox.connect(sandbox.sandboxId, connectionTo(back)))).toBe("moved");
  });

  /** Writes the manifests as earlier versions did. */
  async function makeEarlier(snapshots: string): Promise<void> {
    const { baseDisk } = JSON.parse(await readFile(join(dirname(home.stateDir), "cache/assets/assets.json"), "utf8"));
    for (const name of readdirSync(snapshots)) {
      const path = join(snapshots, name, "manifest.json");
      const { parents, cpuClass: _, ...manifest } = JSON.parse(await readFile(path, "utf8"));
      if (!parents) continue;
      const earlier = { ...manifest, formatVersion: 1, dependsOn: [baseDisk] };
      await writeFile(path, JSON.stringify({ ...earlier, machine: { ...manifest.machine, baseDisk } }));
    }
  }
});
