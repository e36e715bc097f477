import { copyFileSync, readdirSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { backupsFolderOf, listBackups } from "../../src/ledger/backup-files.ts";
import { backUp, backUpIfDue } from "../../src/ledger/backups.ts";
import { openLedger } from "../../src/ledger/open.ts";
import { getSetting, setSetting } from "../../src/ledger/settings.ts";
import { failureOf, temporaryFolder, temporaryPath } from "./support.ts";

const hourMs = 3_600_000;

async function names(ledgerPath: string): Promise<string[]> {
  return (await listBackups(backupsFolderOf(ledgerPath))).map(({ path }) => basename(path));
}

test("a backup is a whole ledger of its moment, for its owner only, and other work goes on while it is made", async () => {
  const path = temporaryPath();
  using ledger = openLedger(path);
  for (let i = 0; i < 300; i += 1) setSetting(ledger, `large ${i}`, "x".repeat(10_000));
  let turns = 0;
  let copying = true;
  const other = (async () => {
    while (copying) {
      setSetting(ledger, "turn", String(turns));
      turns += 1;
      await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  const backup = await backUp(ledger);
  copying = false;
  await other;
  setSetting(ledger, "after", "yes");
  // 3 MB are some 12 turns of 256 KiB.
  expect(turns).toBeGreaterThan(5);
  expect(statSync(backup).mode & 0o777).toBe(0o600);
  expect(statSync(dirname(backup)).mode & 0o777).toBe(0o700);
  expect(readdirSync(dirname(backup))).toEqual([basename(backup)]);
  using copy = openLedger(copied(backup));
  expect(getSetting(copy, "large 299")).toHaveLength(10_000);
  expect(getSetting(copy, "after")).toBeUndefined();
});

test("one backup an hour, the newest twelve are kept, and a clock that was set back makes one more", async () => {
  const path = temporaryPath();
  let nowMs = Date.now();
  const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs, sleep: async () => {} };
  using ledger = openLedger(path, { clock });
  const made = async () => {
    const backup = await backUpIfDue(ledger, hourMs);
    if (backup) utimesSync(backup, nowMs / 1000, nowMs / 1000);
    return backup !== undefined;
  };
  expect(await made()).toBe(true);
  nowMs += hourMs - 1_000;
  expect(await made()).toBe(false);
  nowMs += 1_000;
  expect(await made()).toBe(true);
  nowMs -= 5 * hourMs;
  expect(await made()).toBe(true);
  for (let i = 0; i < 15; i += 1) await backUp(ledger);
  const all = await names(path);
  expect(all).toHaveLength(12);
  expect(all[0]).toBe("00000018-hourly.db");
  expect(all.at(-1)).toBe("00000007-hourly.db");
});

test("what a daemon left that died in the middle of a backup is no backup, and goes with the next one", async () => {
  const path = temporaryPath();
  using ledger = openLedger(path);
  const first = await backUp(ledger);
  const half = join(dirname(first), "00000002-hourly.db.part");
  writeFileSync(half, "half");
  expect(await names(path)).toEqual(["00000001-hourly.db"]);
  await backUp(ledger);
  expect(readdirSync(dirname(first)).sort()).toEqual(["00000001-hourly.db", "00000002-hourly.db"]);
});

test("a ledger is copied before a migration, a new one is not, and the copy is of before", async () => {
  const path = temporaryPath();
  const migrations = temporaryFolder();
  const shipped = new URL("../../migrations/", import.meta.url);
  for (const name of readdirSync(shipped)) copyFileSync(new URL(name, shipped), join(migrations, name));
  const migrationsFolder = pathToFileURL(`${migrations}/`);
  const number = readdirSync(shipped).length + 1;
  const open = () => openLedger(path, { migrationsFolder });
  const first = open();
  setSetting(first, "kept", "yes");
  first.close();
  expect(await names(path)).toEqual([]);
  writeFileSync(join(migrations, `${String(number).padStart(4, "0")}-more.sql`), "delete from settings;");
  for (let start = 0; start < 2; start += 1) {
    using ledger = open();
    expect(getSetting(ledger, "kept")).toBeUndefined();
  }
  expect(await names(path)).toEqual(["00000001-before-migration.db"]);
  const backup = join(backupsFolderOf(path), "00000001-before-migration.db");
  expect(statSync(backup).mode & 0o777).toBe(0o600);
  using before = openLedger(copied(backup));
  expect(getSetting(before, "kept")).toBe("yes");
});

test("a ledger that cannot be copied is not migrated, and the message says why", () => {
  const path = temporaryPath();
  const migrations = temporaryFolder();
  const shipped = new URL("../../migrations/", import.meta.url);
  for (const name of readdirSync(shipped)) copyFileSync(new URL(name, shipped), join(migrations, name));
  const migrationsFolder = pathToFileURL(`${migrations}/`);
  openLedger(path, { migrationsFolder }).close();
  const number = readdirSync(shipped).length + 1;
  writeFileSync(
    join(migrations, `${String(number).padStart(4, "0")}-more.sql`),
    "create table more (id integer primary key) strict;",
  );
  writeFileSync(backupsFolderOf(path), "a file where the folder should be");
  const failure = failureOf(() => openLedger(path, { migrationsFolder }));
  expect(failure.code).toBe("failed_precondition");
  expect(failure.message).toContain("cannot be copied");
  expect(failure.message).toContain("before it is migrated");
  using ledger = openLedger(path);
  expect(ledger.statement("select name from sqlite_schema where name = 'more'").get({})).toBeUndefined();
});

/** A copy of a backup in a folder of its own, so that opening it makes no files beside the backups. */
function copied(backup: string): string {
  const path = temporaryPath();
  copyFileSync(backup, path);
  return path;
}
