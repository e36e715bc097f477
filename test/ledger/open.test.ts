import { chmodSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { dirname } from "node:path";
import Database from "better-sqlite3";
import { expect, test, vi } from "vitest";
import { openLedger } from "../../src/ledger/open.ts";
import { recordSamples } from "../../src/ledger/samples.ts";
import { getOrMakeSetting, getSetting, setSetting } from "../../src/ledger/settings.ts";
import { addReadySnapshot, failureOf, memoryLedger, temporaryFolder, temporaryPath } from "./support.ts";

test("rows are there after closing and opening again", () => {
  const path = temporaryPath();
  const first = openLedger(path);
  setSetting(first, "node tag", "ab");
  first.close();
  using second = openLedger(path);
  expect(getSetting(second, "node tag")).toBe("ab");
});

test("all files of the ledger are for their owner only, and an old one is made so", () => {
  const path = temporaryPath();
  writeFileSync(path, "", { mode: 0o644 });
  chmodSync(path, 0o644);
  using ledger = openLedger(path);
  setSetting(ledger, "secret", "s");
  const names = readdirSync(dirname(path));
  expect(names.sort()).toEqual(["ledger.db", "ledger.db-shm", "ledger.db-wal"]);
  for (const name of names) expect(statSync(`${dirname(path)}/${name}`).mode & 0o777, name).toBe(0o600);
});

test("closing leaves one file, and can be repeated", () => {
  const path = temporaryPath();
  const ledger = openLedger(path);
  setSetting(ledger, "a", "b");
  ledger.close();
  ledger.close();
  expect(readdirSync(dirname(path))).toEqual(["ledger.db"]);
});

test("a file that is no database is refused, untouched, with what to do", () => {
  const path = temporaryPath();
  writeFileSync(path, "these are notes, and not a database at all\n".repeat(200));
  const before = readFileSync(path);
  const failure = failureOf(() => openLedger(path));
  expect(failure.code).toBe("failed_precondition");
  expect(failure.message).toContain(`The ledger ${path} is damaged`);
  expect(failure.message).toContain(`Move it, ${path}-wal and ${path}-shm to another folder`);
  expect(readFileSync(path).equals(before)).toBe(true);
});

test.each([
  ["overwritten in the middle", (file: Buffer) => file.fill(0x5a, 4096 * 3, 4096 * 9)],
  ["cut off", (file: Buffer) => file.subarray(0, 4096 * 5)],
])("a database that was %s is refused when it is opened", (_, damage) => {
  const path = temporaryPath();
  const ledger = openLedger(path);
  addReadySnapshot(ledger);
  ledger.close();
  writeFileSync(path, damage(readFileSync(path)));
  const failure = failureOf(() => openLedger(path));
  expect(failure.code).toBe("failed_precondition");
  expect(failure.message).toContain("is damaged");
});

test("an empty file is a new ledger", () => {
  const path = temporaryPath();
  writeFileSync(path, "");
  truncateSync(path, 0);
  using ledger = openLedger(path);
  expect(getSetting(ledger, "anything")).toBeUndefined();
});

test("a path that cannot be opened is named", () => {
  const folder = temporaryFolder();
  const failure = failureOf(() => openLedger(folder));
  expect(failure).toMatchObject({ code: "failed_precondition" });
  expect(failure.message).toContain(`The ledger ${folder} cannot be opened`);
});

test("a ledger that another process keeps locked says so, at opening and at writing, and works afterwards", () => {
  const path = temporaryPath();
  using ledger = openLedger(path, { busyTimeoutMs: 20 });
  const other = new Database(path);
  try {
    other.exec("begin exclusive");
    expect(failureOf(() => setSetting(ledger, "a", "b"))).toMatchObject({
      code: "not_ready",
      message: `Another process keeps the ledger ${path} locked: end it.`,
    });
    expect(failureOf(() => openLedger(path, { busyTimeoutMs: 20 })).code).toBe("not_ready");
    other.exec("commit");
  } finally {
    other.close();
  }
  setSetting(ledger, "a", "b");
  expect(getSetting(ledger, "a")).toBe("b");
});

test("a change holds the ledger from its start, so no other process changes the rows it has read", () => {
  const path = temporaryPath();
  using ledger = openLedger(path);
  using other = openLedger(path, { busyTimeoutMs: 20 });
  ledger.write(() => {
    expect(getSetting(ledger, "a")).toBeUndefined();
    expect(failureOf(() => setSetting(other, "a", "theirs")).code).toBe("not_ready");
  });
  setSetting(other, "a", "theirs");
  expect(getSetting(ledger, "a")).toBe("theirs");
});

test("a full disk is reported as such, and nothing of the change stays", () => {
  const path = temporaryPath();
  using ledger = openLedger(path);
  // The file may not grow, which SQLite answers like a full disk.
  const pages = ledger.statement<{ page_count: number }>("pragma page_count").get({})?.page_count;
  ledger.statement(`pragma max_page_count = ${pages}`).get({});
  const failure = failureOf(() =>
    ledger.write(() => {
      setSettingWithin("small", "fits");
      setSettingWithin("large", "x".repeat(1_000_000));
    }),
  );
  expect(failure.code).toBe("disk_pressure");
  expect(getSetting(ledger, "small")).toBeUndefined();

  function setSettingWithin(key: string, value: string): void {
    ledger.statement("insert into settings (key, value) values (:key, :value)").run({ key, value });
  }
});

test("a failed change is undone as a whole, and a failed part of one alone", () => {
  const ledger = memoryLedger();
  const sample = {
    scenario: "create",
    engine: "qemu",
    acceleration: "none",
    sandboxId: null,
    atMs: 1,
    durationMs: 1,
  } as const;
  const count = () => ledger.statement<{ n: number }>("select count(*) as n from latency_samples").get({})?.n;
  expect(() =>
    ledger.write(() => {
      recordSamples(ledger, [{ ...sample, span: "ready_probe" }]);
      throw new Error("never mind");
    }),
  ).toThrow("never mind");
  expect(count()).toBe(0);
  ledger.write(() => {
    recordSamples(ledger, [{ ...sample, span: "ready_probe" }]);
    const broken = { ...sample, span: "kill_delete", durationMs: -1 } as const;
    expect(() => recordSamples(ledger, [{ ...sample, span: "kill_delete" }, broken])).toThrow(/CHECK/);
  });
  expect(count()).toBe(1);
});

test("a sync waits for the disk to have the log of what was committed", async () => {
  const path = temporaryPath();
  using ledger = openLedger(path);
  setSetting(ledger, "a", "b");
  const probe = await open(path, "r");
  await using _ = probe;
  const synced: number[] = [];
  const datasync = vi.spyOn(Object.getPrototypeOf(probe) as FileHandle, "datasync");
  datasync.mockImplementation(async function (this: FileHandle) {
    synced.push((await this.stat()).ino);
  });
  try {
    await ledger.sync();
  } finally {
    datasync.mockRestore();
  }
  expect(synced).toEqual([statSync(`${path}-wal`).ino]);
  await memoryLedger().sync();
});

test("a durable change inside a transaction that is not durable is refused", () => {
  const ledger = memoryLedger();
  expect(failureOf(() => ledger.write(() => setSetting(ledger, "a", "b"))).code).toBe("internal");
  expect(getSetting(ledger, "a")).toBeUndefined();
  ledger.writeDurably(() => setSetting(ledger, "a", "b"));
  expect(getSetting(ledger, "a")).toBe("b");
});

test("a setting is made once, and changed when asked", () => {
  const ledger = memoryLedger();
  expect(getOrMakeSetting(ledger, "secret", () => "first")).toBe("first");
  expect(getOrMakeSetting(ledger, "secret", () => "second")).toBe("first");
  setSetting(ledger, "secret", "third");
  expect(getSetting(ledger, "secret")).toBe("third");
});
