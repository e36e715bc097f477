/** The doctor's findings on a Mac, from the output that programs of a Mac would print. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { checkMac, screenProblem } from "../../scripts/doctor/macos.mjs";
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
  id: "501\n",
  xcrun: "Apple Swift version 6.0.3 (swiftlang)",
  ioreg: '"IOConsoleUsers" = ({"kCGSSessionUserIDKey"=501,"kCGSSessionOnConsoleKey"=Yes})',
  diskutil: "   File System Personality:   APFS\n",
  tmutil: "[Excluded] /cache\n[Excluded] /state\n",
  "codesign --verify": "",
  "codesign --display": "<key>com.apple.security.virtualization</key><true/>",
};
const failures = (answers: Record<string, string>, failing = "", state = cache) => {
  const roots = storageRoots({ FIRKIN_CACHE_DIR: cache, FIRKIN_STATE_DIR: state });
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
  expect(failures({ xcrun: "Apple Swift version 5.10 (swiftlang)" })).toEqual(["Swift failed"]);
  expect(failures({}, "xcrun")).toEqual(["Swift failed"]);
  expect(failures({ ioreg: "" })).toEqual(["screen advice"]);
  expect(failures({ diskutil: "   File System Personality:   HFS+\n" })).toEqual(["volumes advice"]);
  expect(failures({ tmutil: "[Included] /cache\n" })).toEqual(["Time Machine advice"]);
  const folderOfLongName = `/Users/${"n".repeat(29)}/.firkin/state`;
  expect(failures({}, "", folderOfLongName)).toContain("state folder failed");
  expect(failures({}, "codesign --verify")).toEqual(["helper failed"]);
  expect(failures({ "codesign --display": "<dict/>" })).toEqual(["helper failed"]);
  await writeFile(join(cache, "Image"), Buffer.alloc(128));
  expect(failures({})).toEqual(["guest kernel failed"]);
});

test("the screen is judged by the session of the user, whatever session asks", () => {
  const session = (user: number, onConsole: boolean, locked: boolean) =>
    `{"kCGSSessionOnConsoleKey"=${onConsole ? "Yes" : "No"},"kCGSSessionUserIDKey"=${user}${
      locked ? ',"CGSSessionScreenIsLocked"=Yes' : ""
    }}`;
  const problem = (...sessions: string[]) => screenProblem(`  "IOConsoleUsers" = (${sessions.join(",")})`, "501");
  expect(problem(session(501, true, false))).toBeUndefined();
  expect(problem(session(502, false, false), session(501, true, false))).toBeUndefined();
  expect(problem(session(501, true, true))).toBe("the screen is locked");
  expect(problem(session(501, false, false), session(502, true, false))).toBe("another user is at the screen");
  expect(problem(session(5011, true, false))).toMatch(/not logged in/);
});
