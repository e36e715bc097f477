/** The files of a hostile image as a folder of this host: nothing in it is anybody's here, and nothing else is touched. */
import { execFileSync } from "node:child_process";
import { lstatSync, mkdtempSync, readFileSync, readlinkSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { baseFolder } from "../../../src/machine/gvisor/base-folder.ts";
import { cannotMount } from "../../support/faults/small-disk.ts";
import { diskOf } from "../../support/images/disk.ts";
import { makeTar, type TarFile } from "../../support/images/tar.ts";

const first = 3_000_000;
let cache: string;
beforeEach(() => {
  cache = mkdtempSync(join(tmpdir(), "firkin-bases-"));
});
afterEach(() => rmSync(cache, { recursive: true, force: true }));

const capability = Buffer.from("0100000200040000000000000000000000000000", "hex");
const hostile: readonly TarFile[] = [
  { path: "root-shell", content: "#!/bin/sh\n", mode: 0o6755 },
  { path: "capable", content: "x", mode: 0o755, pax: { "SCHILY.xattr.security.capability": capability } },
  { path: "disk", type: "4", device: [8, 0], mode: 0o666 },
  { path: "memory", type: "3", device: [1, 1], mode: 0o666 },
  { path: "hidden", type: "3", device: [0, 0] },
  { path: "shadow", type: "2", target: "/etc/shadow" },
  { path: "up", type: "2", target: "../../../../../../etc" },
  { path: "up/planted", content: "planted" },
  { path: "shadow-too", type: "1", target: "shadow" },
  { path: "one", content: "shared", mode: 0o4755, uid: 7, gid: 8 },
  { path: "two", type: "1", target: "one" },
  { path: "pipe", type: "6", mode: 0o666 },
  { path: "-rf", content: "a name like an option" },
  { path: "a\nb $(id)", content: "a name like a command" },
  { path: "odd", content: "y", pax: { "SCHILY.xattr.trusted.odd": "z", "SCHILY.xattr.user.a": "b".repeat(2000) } },
  { path: "sparse", content: Buffer.alloc(64 * 2 ** 20) },
];

test.skipIf(cannotMount)("a hostile image harms nothing on the host", { timeout: 300_000 }, async () => {
  const before = [statSync("/etc/shadow"), statSync("/etc")].map(({ uid, mode, ctimeMs }) => [uid, mode, ctimeMs]);
  await using disk = await diskOf([makeTar(hostile)]);
  const folder = await baseFolder(disk.path, first, cache);
  const at = (name: string) => join(folder, name);
  const after = [statSync("/etc/shadow"), statSync("/etc")].map(({ uid, mode, ctimeMs }) => [uid, mode, ctimeMs]);
  expect(after).toEqual(before);
  // Set-user-ID is for the users of boxes, whom nobody is.
  expect(lstatSync(at("root-shell"))).toMatchObject({ uid: first, gid: first, mode: 0o106755 });
  expect(lstatSync(at("one"))).toMatchObject({ uid: first + 7, gid: first + 8, nlink: 2 });
  expect(readlinkSync(at("shadow"))).toBe("/etc/shadow");
  expect(lstatSync(at("shadow-too"))).toMatchObject({ uid: first, nlink: 2 });
  expect(readFileSync(at("etc/planted"), "utf8")).toBe("planted");
  expect(readFileSync(at("-rf"), "utf8")).toBe("a name like an option");
  expect(readFileSync(at("a\nb $(id)"), "utf8")).toBe("a name like a command");
  const owners = execFileSync("find", [folder, "-printf", "%U %y\n"]).toString().trim().split("\n");
  expect(owners.filter((line) => Number(line.split(" ")[0]) < first || /[bc]$/.test(line))).toEqual([]);
  const attributes = execFileSync("python3", ["-c", "import os, sys; print(os.listxattr(sys.argv[1]))", at("capable")]);
  expect(attributes.toString()).toBe("[]\n");
  expect(lstatSync(at("sparse")).blocks * 512).toBeLessThan(2 ** 20);
  // Whoever is not root cannot even look for a set-user-ID program.
  expect(statSync(join(cache, "bases")).mode & 0o077).toBe(0);
  expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(cache);
});

test.skipIf(cannotMount)("owners that boxes do not have are refused by the path", async () => {
  await using disk = await diskOf([makeTar([{ path: "theirs", content: "x", pax: { uid: "4000000000" } }])]);
  await expect(baseFolder(disk.path, first, cache)).rejects.toThrow("theirs: owners beyond 65535 are not supported");
  expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(cache);
});
