/** The program that gives the files of a root disk to the users of a box. */
import { execFileSync, spawnSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { titleOf } from "../../support/skipped-title.ts";

const source = fileURLToPath(new URL("../../../src/machine/gvisor/own.c", import.meta.url));
const missing = process.getuid?.() === 0 ? undefined : "only root may give files away";
const first = 200_000;

describe.skipIf(missing)(titleOf("files for the users of a box", missing), () => {
  let root = "";
  beforeAll(() => {
    root = mkdtempSync(join(tmpdir(), "firkin-own-"));
    execFileSync("cc", ["-O1", "-o", join(root, "own"), source]);
  });
  afterAll(() => rmSync(root, { recursive: true, force: true }));
  const own = (folder: string) => spawnSync(join(root, "own"), [folder, String(first)], { encoding: "utf8" });

  test("each file goes to its user plus the first one, once, whatever names it has", () => {
    const folder = join(root, "files");
    mkdirSync(join(folder, "below"), { recursive: true });
    const path = (name: string) => join(folder, name);
    writeFileSync(path("tool"), "");
    chownSync(path("tool"), 7, 8);
    chmodSync(path("tool"), 0o6755);
    linkSync(path("tool"), path("below/same"));
    linkSync(path("tool"), path("same"));
    symlinkSync("nowhere", path("link"));
    expect(own(folder).status).toBe(0);
    const { uid, gid, mode } = lstatSync(path("same"));
    expect([uid - first, gid - first, mode & 0o7777]).toEqual([7, 8, 0o6755]);
    expect(["", "below", "link"].map((name) => lstatSync(path(name)).uid - first)).toEqual([0, 0, 0]);
  });

  test("a user that no box has is refused by the file's name", () => {
    const folder = join(root, "foreign");
    mkdirSync(folder);
    writeFileSync(join(folder, "theirs"), "");
    chownSync(join(folder, "theirs"), 65_536, 0);
    const { status, stderr } = own(folder);
    expect([status, stderr]).toMatchObject([1, expect.stringContaining("theirs: owners beyond 65535")]);
  });
});
