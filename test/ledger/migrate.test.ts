import { copyFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import Database from "better-sqlite3";
import { expect, test } from "vitest";
import { openLedger } from "../../src/ledger/open.ts";
import { getSetting, setSetting } from "../../src/ledger/settings.ts";
import { failureOf, temporaryFolder, temporaryPath } from "./support.ts";

const shipped = new URL("../../migrations/", import.meta.url);

/** A copy of the shipped migrations, and functions that change it. */
function migrationsCopy() {
  const path = temporaryFolder();
  for (const name of readdirSync(shipped)) copyFileSync(new URL(name, shipped), join(path, name));
  const next = String(readdirSync(shipped).length + 1).padStart(4, "0");
  return {
    folder: pathToFileURL(`${path}/`),
    next: `${next}-more.sql`,
    put: (name: string, sql: string) => writeFileSync(join(path, name), sql),
  };
}

test("a new migration is applied once to a ledger that has the earlier ones, and keeps its rows", () => {
  const path = temporaryPath();
  const migrations = migrationsCopy();
  const old = openLedger(path, { migrationsFolder: migrations.folder });
  setSetting(old, "kept", "yes");
  old.close();
  migrations.put(migrations.next, "create table more (id integer primary key) strict; insert into more values (7);");
  for (let time = 0; time < 2; time += 1) {
    using ledger = openLedger(path, { migrationsFolder: migrations.folder });
    expect(getSetting(ledger, "kept")).toBe("yes");
    expect(ledger.statement("select id from more").all({})).toEqual([{ id: 7 }]);
  }
});

test("a ledger of a newer version is refused and left as it is", () => {
  const path = temporaryPath();
  const migrations = migrationsCopy();
  migrations.put(migrations.next, "create table more (id integer primary key) strict;");
  openLedger(path, { migrationsFolder: migrations.folder }).close();
  const failure = failureOf(() => openLedger(path));
  expect(failure.code).toBe("failed_precondition");
  expect(failure.message).toContain(`was written by a newer firkin (it has migration ${migrations.next}`);
  expect(failure.message).toContain("Start that version or a later one");
  openLedger(path, { migrationsFolder: migrations.folder }).close();
});

test("a migration that was changed after it was applied is refused by name", () => {
  const path = temporaryPath();
  const migrations = migrationsCopy();
  openLedger(path).close();
  migrations.put("0001-ledger.sql", "create table something_else (id integer) strict;");
  const failure = failureOf(() => openLedger(path, { migrationsFolder: migrations.folder }));
  expect(failure.code).toBe("failed_precondition");
  expect(failure.message).toContain("Migration 0001-ledger.sql is not the one");
});

test("a migration that fails leaves nothing of itself, and can be tried again", () => {
  const path = temporaryPath();
  const migrations = migrationsCopy();
  migrations.put(migrations.next, "create table more (id integer) strict; insert into nowhere values (1);");
  expect(failureOf(() => openLedger(path, { migrationsFolder: migrations.folder })).message).toContain("nowhere");
  migrations.put(migrations.next, "create table more (id integer) strict;");
  openLedger(path, { migrationsFolder: migrations.folder }).close();
});

test("a gap in the numbers is refused before anything is applied", () => {
  const path = temporaryPath();
  const migrations = migrationsCopy();
  migrations.put("0099-later.sql", "create table later (id integer) strict;");
  expect(failureOf(() => openLedger(path, { migrationsFolder: migrations.folder })).message).toContain(
    "0099-later.sql is out of sequence",
  );
});

test("every table is strict, so that a wrong type is an error and not a value", () => {
  const path = temporaryPath();
  openLedger(path).close();
  const db = new Database(path, { readonly: true });
  try {
    const lax = db.prepare("select name from pragma_table_list where schema = 'main' and not strict").pluck().all();
    expect(lax).toEqual(["sqlite_schema"]);
  } finally {
    db.close();
  }
});
