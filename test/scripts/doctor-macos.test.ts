/** The doctor's findings on a Mac, from the output that programs of a Mac would print. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { checkMac } from "../../scripts/doctor/macos.mjs";
import { storageRoots } from "../../scripts/setup/roots.mjs";

let cache = "";
beforeEach(async () => {
  cache = await mkdtemp(join(tmpdir(), "fk-"));
  await mkdir(join(cache, "assets/vz"), { recursive: true });
  await writeFile(join(cache, "assets/vz/firkin-vz"), "");
  const image = Buffer.alloc(128);
  image.write("ARM\u0064", 56, "latin1");
  await writeFile(join(cache, "Image"), image);
  await writeFile(join(cache, "assets/assets.json"), JSON.stringify({ kernel: join(cache, "Image") }));
});
afterEach(() => rm(cache, { recursive: true, force: true }));

const good: Record<string, string> = {
  sw_vers: "15.1\n",
  uname: "arm64\n",
  ioreg: '"IOConsoleLocked" = No',
  "codesign --verify": "",
  "codesign --display": "<key>com.apple.security.virtualization</key><true/>",
};
const failures = (answers: Record<string, string>, failing = "") => {
  const roots = storageRoots({ FIRKIN_CACHE_DIR: cache, FIRKIN_STATE_DIR: cache });
  const findings = checkMac(roots, (command, [first = ""]) => {
    const key = command === "codesign" ? `${command} ${first}` : command;
    return { status: key === failing ? 1 : 0, output: { ...good, ...answers }[key] ?? "firkin-vz 0.1.0" };
  });
  return findings.filter(({ level }) => level !== "ok").map(({ what, level }) => `${what} ${level}`);
};

test("a Mac that meets every requirement has no failed finding, and each lack is one, with a remedy", async () => {
  expect(failures({})).toEqual([]);
  expect(failures({ sw_vers: "13.6\n" })).toEqual(["macOS failed"]);
  expect(failures({ uname: "x86_64\n" })).toEqual(["macOS failed"]);
  expect(failures({ ioreg: '"IOConsoleLocked" = Yes' })).toEqual(["screen advice"]);
  expect(failures({}, "codesign --verify")).toEqual(["helper failed"]);
  expect(failures({ "codesign --display": "<dict/>" })).toEqual(["helper failed"]);
  await writeFile(join(cache, "Image"), Buffer.alloc(128));
  expect(failures({})).toEqual(["guest kernel failed"]);
});
