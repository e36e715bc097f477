/** Upkeep: remains of a crash, a bad disk or a person in the state folder are found, listed, and used by nobody. */
import { open, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import Database from "better-sqlite3";
import { Sandbox } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { testedEngine } from "../support/daemon/engine-processes.ts";
import { type DaemonHome, makeDaemonHome } from "../support/daemon/home.ts";
import { missingForRealMachines, type RealDaemon } from "../support/daemon/real-daemon.ts";
import { call, connectionTo, createOn, reservations } from "../support/daemon/requests.ts";

interface Entry {
  readonly id: string;
  readonly kind: string;
  readonly name: string;
  readonly reason: string;
}

const entriesOf = async (daemon: RealDaemon) =>
  ((await (await call(daemon, "/quarantine")).json()) as { entries: Entry[] }).entries;

/** A file of a pause that no other snapshot shares. */
const changed = { qemu: "memory-changes.bin", gvisor: "checkpoint.img" }[testedEngine];

describe.skipIf(missingForRealMachines())("upkeep", () => {
  let home: DaemonHome;
  beforeAll(async () => {
    home = await makeDaemonHome();
  });
  afterAll(() => home?.[Symbol.asyncDispose]());

  test("a changed byte, an unknown machine and a foreign file are quarantined", async () => {
    const first = await home.start();
    const [paused, stray, running] = [await createOn(first), await createOn(first), await createOn(first)];
    await paused.commands.run("echo 1 > /dev/shm/mine");
    await paused.pause();
    await first.kill();
    const snapshotId = await forget(home.stateDir, stray.sandboxId, paused.sandboxId);
    await changeByte(join(home.stateDir, "snapshots", snapshotId, changed));
    await writeFile(join(home.machinesFolder, "core.1"), "dumped");

    await using next = await home.start();
    await expect.poll(() => entriesOf(next), { timeout: 60_000, interval: 500 }).toHaveLength(3);
    const entries = await entriesOf(next);
    expect(entries.map(({ kind }) => kind).sort()).toEqual(["file", "machine", "snapshot"]);
    const damaged = entries.find(({ kind }) => kind === "snapshot");
    expect(damaged).toMatchObject({ id: snapshotId, name: `sandbox ${paused.sandboxId}` });
    expect(damaged?.reason).toContain(`${changed} has changed`);
    const again = await Sandbox.connect(running.sandboxId, connectionTo(next));
    expect((await again.commands.run("echo fine")).stdout).toBe("fine\n");
    const refusal = await call(next, `/sandboxes/${paused.sandboxId}/resume`, { method: "POST" });
    expect([refusal.status, (await refusal.json()) as object]).toMatchObject([
      400,
      { message: expect.stringContaining(snapshotId) },
    ]);
    expect(home.engines()).toHaveLength(2);
    const remove = async (id: string | undefined) =>
      (await call(next, `/quarantine/${id}`, { method: "DELETE" })).status;
    expect(await remove(snapshotId)).toBe(409);
    await call(next, `/sandboxes/${paused.sandboxId}`, { method: "DELETE" });
    for (const { id, kind } of entries) if (kind !== "snapshot") expect(await remove(id)).toBe(204);
    await expect.poll(() => entriesOf(next)).toEqual([]);
    expect(home.engines()).toHaveLength(1);
    expect(await reservations(next)).toBe(1);
    expect(await readdir(join(home.stateDir, "quarantine"))).toEqual([]);
  });

  test("below a disk floor new work is refused with the figures, and sandboxes that run go on", async () => {
    const file = join(home.stateDir, "logs", "firkin.log");
    const daemon = await home.start(["--save-disk-floor-mib", "1000000000", "--log-file", file]);
    const sandbox = await createOn(daemon);
    const refusal = await call(daemon, `/sandboxes/${sandbox.sandboxId}/pause`, { method: "POST" });
    expect([refusal.status, await refusal.json()]).toMatchObject([
      507,
      {
        message: expect.stringMatching(
          /pause a sandbox: [\d.]+ GiB free at .*, the floor is 976562.5 GiB.*--save-disk/,
        ),
      },
    ]);
    expect((await sandbox.commands.run("echo fine")).stdout).toBe("fine\n");
    await daemon[Symbol.asyncDispose]();
    expect(daemon.log()).not.toContain("sandbox running");
    const lines = (await readFile(file.replace(".log", ".1.log"), "utf8")).trimEnd().split("\n");
    const messages = lines.map((line) => (JSON.parse(line) as { msg: string }).msg);
    expect(messages).toContain("sandbox running");
    expect(messages.at(-1)).toMatch(/^the daemon stops/);
  });
});

/** Forgets a running sandbox, in the ledger and on the disk. @returns the snapshot of the paused sandbox */
async function forget(stateDir: string, strayId: string, pausedId: string): Promise<string> {
  const ledger = new Database(join(stateDir, "ledger.db"));
  const row = (id: string) =>
    ledger.prepare("select machine, snapshot_id from sandboxes where id = ?").get(id) as Record<string, string>;
  const { folder } = JSON.parse(row(strayId).machine ?? "") as { folder: string };
  ledger.prepare("update reservations set state = 'released', released_at_ms = 1 where sandbox_id = ?").run(strayId);
  ledger.prepare("delete from sandboxes where id = ?").run(strayId);
  const snapshotId = row(pausedId).snapshot_id ?? "";
  ledger.close();
  await rm(folder, { recursive: true });
  return snapshotId;
}

async function changeByte(path: string): Promise<void> {
  const file = await open(path, "r+");
  const { size } = await file.stat();
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, size - 10);
  await file.write(Buffer.from([(byte[0] ?? 0) ^ 1]), 0, 1, size - 10);
  await file.close();
}
