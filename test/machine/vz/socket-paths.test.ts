/** Socket paths under the temporary folder of a Mac, whose name has 49 bytes, and under the state folders of users. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { checkSocketPaths } from "../../../src/machine/vz/helper-process.ts";
import { newShortFolder } from "../../support/short-folder.ts";

const before = process.env.TMPDIR;
let made = "";
beforeEach(async () => {
  const folder = await mkdtemp("/tmp/fk-");
  made = join(folder, "x".repeat(48 - folder.length));
  process.env.TMPDIR = made;
  expect(Buffer.byteLength(tmpdir())).toBe(49);
});
afterEach(async () => {
  if (before === undefined) delete process.env.TMPDIR;
  else process.env.TMPDIR = before;
  await rm(dirname(made), { recursive: true });
});

test("the folders of the tests are short enough for a machine's sockets where the system's own are not", async () => {
  const session = "i".repeat(32);
  expect(() => checkSocketPaths(join(tmpdir(), "fk-XXXXXX/machines", session))).toThrow(/macOS allows 103/);
  const folder = await newShortFolder();
  try {
    checkSocketPaths(join(folder, "machines", session));
    checkSocketPaths(join(folder, "m", session));
  } finally {
    await rm(folder, { recursive: true });
  }
});
