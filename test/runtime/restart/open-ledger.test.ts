/** Tests of a start without a ledger, or with a damaged one. */
import { copyFileSync, existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { getAccessToken } from "../../../src/ledger/access-tokens.ts";
import { insertApiKey, listApiKeys } from "../../../src/ledger/api-keys.ts";
import { backupsFolderOf, listBackups } from "../../../src/ledger/backup-files.ts";
import { backUp } from "../../../src/ledger/backups.ts";
import { getSetting, setSetting } from "../../../src/ledger/settings.ts";
import { getSnapshot } from "../../../src/ledger/snapshots.ts";
import { FakeDaemon, nothing, paused, pooled, running } from "../../support/fakes/fake-daemon.ts";

const damages: readonly (readonly [string, (path: string) => void])[] = [
  ["deleted", (path) => rmSync(path)],
  ["emptied", (path) => writeFileSync(path, "")],
  ["cut off", (path) => writeFileSync(path, readFileSync(path).subarray(0, 4096 * 5))],
  ["overwritten in the middle", (path) => writeFileSync(path, readFileSync(path).fill(0x5a, 4096 * 3, 4096 * 9))],
  ["overwritten at its beginning", (path) => writeFileSync(path, readFileSync(path).fill(0x5a, 0, 4096))],
];

async function messagesOf(daemon: FakeDaemon, id: string): Promise<string[]> {
  const lines = daemon.runtime.observations.logs(id, { search: "", order: "asc", limit: 1_000 });
  return lines.map(({ message }) => message);
}

test.each(damages)(
  "running and paused sandboxes come back when the ledger was %s, without a backup",
  async (_, damage) => {
    await using daemon = await FakeDaemon.open({ onDisk: true });
    const one = await daemon.create({ metadata: { job: "one" }, envs: { A: "1" }, timeoutMs: 100_000 });
    const two = await daemon.create({ metadata: { job: "two" }, timeoutMs: 100_000 });
    await daemon.runtime.deadlines.set(one.record.id, 777_000);
    await daemon.pause(two.record.id);
    const before = [one, two].map(({ record }) => daemon.runtime.registry.get(record.id));
    const tokens = [one, two].map(({ accessToken }) => accessToken);
    await daemon.restartWithout(damage);
    const after = [one, two].map(({ record }) => daemon.runtime.registry.get(record.id));
    for (const [at, { record, ...view }] of after.entries()) {
      const { record: known, ...earlier } = before[at] ?? expect.fail();
      // The reservation is the new ledger's.
      expect({ ...record, reservationId: "" }).toEqual({ ...known, reservationId: "" });
      expect(view).toEqual(earlier);
    }
    expect(after.map(({ accessToken }) => accessToken)).toEqual(tokens);
    expect(daemon.held()).toEqual({ active: 1, warm: 0 });
    expect(daemon.host.machines.size).toBe(1);
    for (const { record } of after) {
      expect((await messagesOf(daemon, record.id))[0]).toMatch(
        /^The daemon's ledger was (gone|empty|damaged), and the sandbox was taken up again\. .* are missing/,
      );
    }
    // They are sandboxes like any others.
    expect((await daemon.runtime.resumes.connect(two.record.id, 1_000)).resumed).toBe(true);
    await daemon.pause(one.record.id);
    for (const { record } of [one, two]) await daemon.runtime.ends.kill(record.id);
    await daemon.settle();
    expect(daemon.held()).toEqual({ active: 0, warm: 0 });
    expect(daemon.host.machines.size).toBe(0);
    expect(readdirSync(daemon.machinesFolder)).toEqual([]);
    // Another start finds a ledger like any other.
    await daemon.restart();
    expect(daemon.logged.filter(({ msg }) => msg === "the ledger was rebuilt")).toHaveLength(1);
  },
);

test("a sandbox comes back paused when its ledger was lost before the machine of its pause had ended", async () => {
  await using daemon = await FakeDaemon.open({ onDisk: true });
  const { record } = await daemon.create();
  const { vm } = daemon.runtime.registry.session(record.id) ?? expect.fail();
  const snapshotId = "c".repeat(32);
  const folder = join(daemon.deps.snapshotsFolder, snapshotId);
  await vm.pause();
  await vm.saveSnapshot(folder, { bootId: "boot", isLast: true });
  await daemon.restartWithout((ledgerPath) => {
    const copy = JSON.parse(readFileSync(join(vm.record.folder, "sandbox.json"), "utf8"));
    copy.record = { ...copy.record, state: "paused", snapshotId };
    writeFileSync(join(folder, "sandbox.json"), JSON.stringify(copy));
    rmSync(ledgerPath);
  });
  expect(daemon.runtime.registry.get(record.id)).toMatchObject({ state: "paused", record: { machine: null } });
  expect(await daemon.remains()).toEqual(paused);
  expect((await daemon.runtime.resumes.connect(record.id, 1_000)).resumed).toBe(true);
});

test.each(damages)(
  "what a backup has comes back when the ledger was %s, and what happened since is not undone",
  async (_, damage) => {
    await using daemon = await FakeDaemon.open({ onDisk: true });
    const { runtime, ledger } = daemon;
    const ids = new Map<string, string>();
    for (const name of ["stays", "killed", "paused later", "resumed later", "killed while paused"]) {
      ids.set(name, (await daemon.create()).record.id);
    }
    const id = (name: string) => ids.get(name) ?? expect.fail();
    for (const name of ["resumed later", "killed while paused"]) await daemon.pause(id(name), "stopped");
    insertApiKey(ledger, {
      id: "k1",
      name: "ci",
      sha256: "00",
      maskedPrefix: "e2b_",
      maskedSuffix: "aaaa",
      createdAtMs: 1,
      lastUsedAtMs: null,
    });
    await backUp(ledger);
    await runtime.ends.kill(id("killed"));
    await runtime.ends.kill(id("killed while paused"));
    await daemon.pause(id("paused later"), "stopped");
    await runtime.resumes.connect(id("resumed later"), 100_000);
    const late = await daemon.create({ metadata: { late: "yes" } });
    await daemon.settle();
    const remains = await daemon.remains();
    await daemon.restartWithout(damage);
    await daemon.settle();
    const states = [...ids.values(), late.record.id].map((each) => daemon.runtime.registry.view(each)?.state);
    expect(states).toEqual(["running", undefined, "paused", "running", undefined, "running"]);
    expect(daemon.runtime.registry.get(late.record.id).record.metadata).toEqual({ late: "yes" });
    expect(await daemon.remains()).toEqual(remains);
    expect(listApiKeys(daemon.ledger).map(({ name }) => name)).toEqual(["ci"]);
    // The template is there, so more can be made.
    await daemon.create();
    // The backup has lines of this log, and the loss is after them.
    expect(await messagesOf(daemon, id("stays"))).toEqual(
      expect.arrayContaining([expect.stringMatching(/the sandbox was taken up again/)]),
    );
  },
);

test("a damaged backup is passed over for the one before it", async () => {
  await using daemon = await FakeDaemon.open({ onDisk: true });
  setSetting(daemon.ledger, "mark", "first");
  await backUp(daemon.ledger);
  setSetting(daemon.ledger, "mark", "second");
  const newest = await backUp(daemon.ledger);
  await daemon.restartWithout((path) => {
    writeFileSync(newest, readFileSync(newest).fill(0x5a, 4096 * 3, 4096 * 9));
    writeFileSync(path, "");
  });
  expect(getSetting(daemon.ledger, "mark")).toBe("first");
  expect(daemon.logged.map(({ msg }) => msg)).toContain("a backup of the ledger is of no use");
});

test("the lost ledger is kept for a person, in the quarantine", async () => {
  await using daemon = await FakeDaemon.open({ onDisk: true });
  await daemon.create();
  await daemon.restartWithout((path) => writeFileSync(path, "no database at all ".repeat(1_000)));
  const [entry] = daemon.deps.quarantine.list();
  expect(entry).toMatchObject({
    kind: "folder",
    name: "ledger.db",
    reason: expect.stringContaining("the ledger was damaged ("),
  });
  const kept = join(daemon.folder, "quarantine", entry?.id ?? "", "ledger.db");
  expect(readFileSync(kept, "utf8")).toContain("no database at all");
});

test("a machine that waited in the pool when the backup was made is the sandbox's alone", async () => {
  await using daemon = await FakeDaemon.open({ ...pooled, retriesByHand: false, onDisk: true });
  await daemon.refill();
  expect(daemon.held().warm).toBe(1);
  await backUp(daemon.ledger);
  const { record } = await daemon.create();
  await daemon.restartWithout((path) => writeFileSync(path, ""));
  await daemon.settle();
  expect(daemon.runtime.registry.get(record.id).state).toBe("running");
  expect(daemon.held().active).toBe(1);
  expect(daemon.host.machines.has(record.machine?.sessionId ?? "")).toBe(true);
});

test("a damaged ledger without a backup and without a sandbox is refused as before, and left as it is", async () => {
  await using daemon = await FakeDaemon.open({ onDisk: true });
  const damage = "no database at all ".repeat(1_000);
  const path = join(daemon.folder, "ledger.db");
  await expect(daemon.restartWithout((each) => writeFileSync(each, damage))).rejects.toThrow(
    /is damaged .* Move it, .* the new ledger will be empty/,
  );
  expect(readFileSync(path, "utf8")).toBe(damage);
  expect(existsSync(`${path}.rebuilding`)).toBe(false);
  // Whoever follows the message gets an empty ledger.
  rmSync(path);
  await daemon.restartWithout(() => {});
  expect(daemon.runtime.registry.list({ metadata: {}, states: new Set(["running"]), limit: 9, order: "asc" })).toEqual({
    sandboxes: [],
    next: undefined,
    totalRunning: 0,
  });
});

test("a daemon that dies while it rebuilds leaves the work to the next one", async () => {
  await using daemon = await FakeDaemon.open({ onDisk: true });
  const { record } = await daemon.create();
  await backUp(daemon.ledger);
  await daemon.restartWithout((path) => {
    // The ledger is set aside already, and the rebuilt one has not got its name.
    const [backup] = readdirSync(backupsFolderOf(path));
    copyFileSync(join(backupsFolderOf(path), backup ?? ""), `${path}.rebuilding`);
    writeFileSync(`${path}.rebuilding`, "half");
    rmSync(path);
  });
  expect(daemon.runtime.registry.get(record.id).state).toBe("running");
  expect(existsSync(join(daemon.folder, "ledger.db.rebuilding"))).toBe(false);
});

test("a copy that is garbled costs its own sandbox only", async () => {
  await using daemon = await FakeDaemon.open({ onDisk: true });
  const [one, two] = [await daemon.create(), await daemon.create()];
  const copy = join(one.record.machine?.folder ?? "", "sandbox.json");
  expect(statSync(copy).mode & 0o777).toBe(0o600);
  await daemon.restartWithout((path) => {
    writeFileSync(copy, "{");
    writeFileSync(path, "");
  });
  await daemon.settle();
  expect(daemon.runtime.registry.view(one.record.id)).toBeUndefined();
  expect(daemon.runtime.registry.get(two.record.id).state).toBe("running");
  expect({ ...(await daemon.remains()), snapshots: 0 }).toEqual(running);
});

test("a sandbox whose host lost its power with the ledger is lost; a paused one is not", async () => {
  await using daemon = await FakeDaemon.open({ onDisk: true });
  const [one, two] = [await daemon.create(), await daemon.create()];
  await daemon.pause(two.record.id);
  await daemon.restartWithout((path) => {
    daemon.host.crash(one.record.machine?.sessionId ?? "");
    writeFileSync(path, "");
  });
  await daemon.settle();
  expect(daemon.runtime.registry.view(one.record.id)).toBeUndefined();
  expect(daemon.stateOf(one.record.id)).toBe("terminated");
  expect(daemon.runtime.registry.get(two.record.id).state).toBe("paused");
  expect(getAccessToken(daemon.ledger, two.record.id)).toBe(two.accessToken);
  expect(getSnapshot(daemon.ledger, one.record.snapshotId)?.state).not.toBe("ready");
  await daemon.runtime.ends.kill(two.record.id);
  await daemon.settle();
  expect({ ...(await daemon.remains()), snapshots: 0 }).toEqual(nothing);
  expect(paused.snapshotFolders).toBe(1);
  expect(await listBackups(backupsFolderOf(daemon.ledger.path))).toEqual([]);
});
