/**
 * The Mac's report on Linux, with stand-ins for the Mac's programs and for what the steps call: every step is run, a
 * failure of each one is in the archive with its cause, and nothing there says whose Mac it is.
 */
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { collectFailure, withoutWords } from "../../scripts/verify/mac/archive.mjs";
import { askByHand, byHand } from "../../scripts/verify/mac/questions.mjs";
import { runSteps, type Step } from "../../scripts/verify/mac/runner.mjs";
import { failedSteps } from "../../scripts/verify/mac/steps.mjs";
import { probeEnd as end, installMac, makeReport } from "../support/fakes/mac-programs.ts";
import { newShortFolder } from "../support/short-folder.ts";

let root = "";
beforeEach(async () => {
  root = await newShortFolder();
});
afterEach(() => rm(root, { recursive: true, force: true }));

describe("the report of a Mac", () => {
  test("has every step, the facts, the logs and the list for people, and nobody's name", async () => {
    await installMac(root);
    const { status, output, files } = await makeReport(root);
    expect(output).toContain("10 passed, 0 failed, 0 not run");
    expect(status).toBe(0);
    const names = [...files.keys()].join(" ");
    for (const name of [
      "facts.md",
      "report.md",
      "report.json",
      "by-hand.md",
      "suite.log",
      "logs/setup/guest-disk.log",
    ]) {
      expect(names).toContain(name);
    }
    expect(files.get("facts.md")).toContain("Apple Swift version 6.0.3");
    expect(files.get("suite.log")).toContain("suite ran for USER");
    for (const [name, text] of files) expect(text, name).not.toMatch(/annabelle|C02XK1ZZJGH5|6F1A-77/i);
  });

  test.each([
    "build-helper",
    "swift-test",
    "mac-files",
    "probe-kernel",
    "set-up",
    "probe",
    "doctor",
    "packages",
    "suite",
    "daemon",
  ])(
    "a failure in %s is there with its cause and the system's log, and the steps that need it are not run",
    async (name) => {
      await installMac(root, name);
      const { status, files } = await makeReport(root);
      expect(status).toBe(1);
      const { results } = JSON.parse(files.get("report.json") ?? "") as {
        results: { name: string; outcome: string }[];
      };
      expect(results).toHaveLength(10);
      expect(results.find((result) => result.name === name)).toMatchObject({
        outcome: "failed",
        reason: expect.stringContaining(`the cause in ${name}`),
      });
      const others = results.filter((result) => result.name !== name).map(({ outcome }) => outcome);
      expect(others.every((outcome) => outcome === "passed" || outcome === "not run")).toBe(true);
      expect(files.get(`${name}.log`)).toContain(`the cause in ${name}`);
      expect(files.get("system.log")).toContain("com.apple.Virtualization USER SERIAL");
    },
  );
});

describe("a step", () => {
  const step = (script: string, more: Partial<Step> = {}): Step => {
    return { name: "one", title: "one", command: "/bin/sh", args: ["-c", script], limitMs: 60_000, ...more };
  };
  const resultsOf = (...steps: Step[]) => runSteps(steps, root, () => {});

  test("that hangs is ended with everything it started, and its output so far is kept", async () => {
    const script = `echo begun; sleep 600 & echo $! > ${root}/child; wait`;
    const [result] = await resultsOf(step(script, { limitMs: 500 }));
    expect(result).toMatchObject({ outcome: "timed out" });
    expect(await readFile(join(root, "one.log"), "utf8")).toContain("begun");
    const child = Number(await readFile(join(root, "child"), "utf8"));
    const isThere = () =>
      readFile(`/proc/${child}/stat`, "utf8").then(
        (text) => !/\) Z /.test(text),
        () => false,
      );
    await expect.poll(isThere).toBe(false);
  });

  test("whose program is missing fails, and names it", async () => {
    const [result] = await resultsOf(step("", { command: "no-such-program" }));
    expect(result).toMatchObject({ outcome: "failed", reason: expect.stringContaining("no-such-program") });
  });

  test("that cannot be run here says so, and so does one that needs it", async () => {
    const results = await resultsOf(
      step("echo no such module; exit 1", { notRunBecause: () => "no library" }),
      step("true", { name: "two", needs: ["one"] }),
      step("true", { name: "three" }),
    );
    expect(results.map(({ outcome, reason }) => [outcome, reason])).toEqual([
      ["not run", "no library"],
      ["not run", "it needs one"],
      ["passed", undefined],
    ]);
  });
});

test("a probe that fails in a step, or does not reach its end, is a failure with the framework's words", () => {
  expect(failedSteps(`noise\n${end}`)).toBeUndefined();
  const row = `{"step":"restore","ok":false,"ms":1,"error":{"code":"framework","message":"Ungültiges Argument"}}`;
  expect(failedSteps(`${row}\n${end}`)).toBe("restore (Ungültiges Argument)");
  expect(failedSteps(`{"step":"boot","ok":true}\n{half`)).toMatch(/did not reach its end/);
});

test("private words go wherever they stand alone, in any case", () => {
  const words = new Map([
    ["anna", "USER"],
    ["anna-mac", "HOST"],
  ]);
  expect(withoutWords("/Users/anna/x Anna-Mac ANNA annals annabel", words)).toBe(
    "/Users/USER/x HOST USER annals annabel",
  );
});

test("crash reports since the beginning are taken along, older ones and other programs' are not", async () => {
  const crashes = join(root, "DiagnosticReports");
  await mkdir(crashes);
  await mkdir(join(root, "report"));
  for (const name of ["firkin-vz-1.ips", "com.apple.Virtualization.VirtualMachine-2.ips", "Safari-3.ips"]) {
    await writeFile(join(crashes, name), "crash");
  }
  const ask = () => ({ status: 64, output: "log: no such predicate" });
  collectFailure(join(root, "report"), Date.now() - 60_000, { ask, crashFolders: [crashes, join(root, "none")] });
  expect((await readdir(join(root, "report/crashes"))).sort()).toEqual([
    "com.apple.Virtualization.VirtualMachine-2.ips",
    "firkin-vz-1.ips",
  ]);
  expect(await readFile(join(root, "report/system.log"), "utf8")).toContain(
    "log ended with 64: log: no such predicate",
  );
  await mkdir(join(root, "later"));
  collectFailure(join(root, "later"), Date.now() + 60_000, { ask, crashFolders: [crashes] });
  expect(await readdir(join(root, "later"))).toEqual(["system.log"]);
});

test("people are asked whether an item was done, and what they saw", async () => {
  let asked = 0;
  const text = await askByHand(async () => (++asked === 1 ? " it went on " : ""));
  expect(asked).toBe(byHand.length);
  expect(text).toContain(`${byHand[0]?.[0]}: it went on`);
  expect(text.match(/not done/g)).toHaveLength(byHand.length - 1);
});
