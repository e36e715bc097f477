/**
 * The Mac's report on Linux, with stand-ins for the Mac's programs and for what the steps call: every step is run, a
 * failure of each one is in the archive with its cause, and nothing there says whose Mac it is.
 */
import { execFile } from "node:child_process";
import { chmod, mkdir, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { collectFailure, withoutWords } from "../../scripts/verify/mac/archive.mjs";
import { askByHand, byHand } from "../../scripts/verify/mac/questions.mjs";
import { runSteps, type Step } from "../../scripts/verify/mac/runner.mjs";
import { failedSteps } from "../../scripts/verify/mac/steps.mjs";
import { newShortFolder } from "../support/short-folder.ts";

const run = promisify(execFile);
const report = fileURLToPath(new URL("../../scripts/verify/mac/report.mjs", import.meta.url));

let root = "";
beforeEach(async () => {
  root = await newShortFolder();
  await mkdir(join(root, "bin"));
  await mkdir(join(root, "cache/assets/vz"), { recursive: true });
  await mkdir(join(root, "cache/logs"), { recursive: true });
  await writeFile(join(root, "cache/logs/guest-disk.log"), "the set-up's log of annabelle\n");
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function install(name: string, script: string): Promise<void> {
  const path = join(root, "bin", name);
  await writeFile(path, `#!/bin/sh\n${script}\n`);
  await chmod(path, 0o755);
}

const end = `{"step":"end","ok":true,"ms":0}`;

/** The programs of a Mac. `failing` is the step whose program fails, with its cause on its output. */
async function installMac(failing = ""): Promise<void> {
  const swift = `case "$*" in
    *--version*) echo "Apple Swift version 6.0.3 (swiftlang-6)" ;;
    *--show-bin-path*) echo "${root}/built" ;;
    build*) ${failing === "build-helper" ? 'echo "the cause in build-helper"; exit 1' : "echo built"} ;;
    test*) ${failing === "swift-test" ? 'echo "the cause in swift-test"; exit 1' : "echo tested"} ;;
  esac`;
  await mkdir(join(root, "built"));
  await writeFile(join(root, "built/firkin-vz"), "#!/bin/sh\necho firkin-vz 0.1.0\n");
  await chmod(join(root, "built/firkin-vz"), 0o755);
  const answers: Record<string, string> = {
    uname: 'case "$1" in -m) echo arm64 ;; *) echo Darwin ;; esac',
    sw_vers: "echo 15.1",
    "xcode-select": "echo /Library/Developer/CommandLineTools",
    swift,
    xcrun: `shift; exec swift "$@"`,
    codesign: `echo com.apple.security.virtualization`,
    id: 'case "$1" in -u) echo 501 ;; -F) echo "Annabelle Example" ;; *) echo annabelle ;; esac',
    hostname: "echo annabelles-mac.local",
    scutil: "echo Annabelles-MacBook",
    ioreg: `echo '"IOPlatformSerialNumber" = "C02XK1ZZJGH5" "IOPlatformUUID" = "6F1A-77"'`,
    log: `echo "the system's log: com.apple.Virtualization annabelle C02XK1ZZJGH5"`,
    npm: failing === "packages" ? `echo "the cause in packages"; exit 1` : "echo installed",
  };
  const others = [
    "sysctl",
    "pkgutil",
    "launchctl",
    "diskutil",
    "tmutil",
    "defaults",
    "locale",
    "pgrep",
    "pmset",
    "curl",
  ];
  for (const name of others) answers[name] = `echo "${name} answers"`;
  for (const [name, script] of Object.entries(answers)) await install(name, script);
  // What the steps start with Node.js is stood in for by its name. The report itself is started by its full path.
  const steps: Record<string, string> = {
    "mac-files": "*/mac-files.mjs*",
    "probe-kernel": "*/probe.mjs*--without-agent*",
    probe: "*/probe.mjs*",
    "set-up": "*firkin.mjs\\ setup*",
    doctor: "*firkin.mjs\\ doctor*",
    suite: "*vitest.mjs*",
    daemon: "*/daemon.mjs*",
  };
  const cases = Object.entries(steps).map(([name, pattern]) => {
    const good = name.startsWith("probe") ? `echo '${end}'` : `echo "${name} ran for annabelle"`;
    const bad =
      name === "probe"
        ? `echo '{"step":"save full","ok":false,"ms":3,"error":{"message":"the cause in probe"}}'; ${good}`
        : `echo "the cause in ${name}"; exit 1`;
    return `${pattern}) ${name === failing ? bad : good} ;;`;
  });
  await install("node", `case "$*" in ${cases.join("\n")}\n*) echo "unexpected: $*"; exit 9 ;; esac`);
  for (const name of ["sh", "git", "tar", "cut", "grep", "mkdir", "cp", "mv", "rm", "dirname", "cat", "gzip", "df"]) {
    const { stdout } = await run("/bin/sh", ["-c", `command -v ${name}`]);
    await symlink(stdout.trim(), join(root, "bin", name));
  }
}

interface Report {
  readonly status: number;
  readonly output: string;
  /** Name of a file in the archive → its text. */
  readonly files: ReadonlyMap<string, string>;
}

async function makeReport(): Promise<Report> {
  const env = {
    PATH: join(root, "bin"),
    HOME: root,
    FIRKIN_CACHE_DIR: join(root, "cache"),
    FIRKIN_STATE_DIR: join(root, "s"),
  };
  const args = [report, "--rehearse", "--no-questions", "--to", join(root, "report")];
  const { status, output } = await run(process.execPath, args, { env }).then(
    ({ stdout }) => ({ status: 0, output: stdout }),
    (error: { code: number; stdout: string; stderr: string }) => ({
      status: error.code,
      output: error.stdout + error.stderr,
    }),
  );
  await mkdir(join(root, "unpacked"));
  await run("tar", ["-xzf", join(root, "report.tar.gz"), "-C", join(root, "unpacked")]);
  const names = await readdir(join(root, "unpacked"), { recursive: true, withFileTypes: true });
  const files = new Map<string, string>();
  for (const entry of names.filter((each) => each.isFile())) {
    const path = join(entry.parentPath, entry.name);
    files.set(path.slice(join(root, "unpacked/report/").length), await readFile(path, "utf8"));
  }
  return { status, output, files };
}

describe("the report of a Mac", () => {
  test("has every step, the facts, the logs and the list for people, and nobody's name", async () => {
    await installMac();
    const { status, output, files } = await makeReport();
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

  test.each(["build-helper", "swift-test", "mac-files", "probe", "set-up", "doctor", "packages", "suite", "daemon"])(
    "a failure in %s is there with its cause and the system's log, and the steps that need it are not run",
    async (name) => {
      await installMac(name);
      const { status, files } = await makeReport();
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
