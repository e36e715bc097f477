/** The unmodified Python SDK, synchronous and not, in a real VM. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { installPythonSdk } from "../support/clients/python-sdk.ts";
import { api, sharedDaemon, skipReason } from "../support/clients/sdk.ts";

const sdk = skipReason ? { missing: skipReason } : await installPythonSdk();
const title = "missing" in sdk ? `the Python SDK (skipped: ${sdk.missing})` : "the Python SDK";

/** Runs a script with the environment a user exports and nothing else of the SDK's. */
function runScript(path: string, ...args: string[]): Promise<string> {
  if ("missing" in sdk) throw new Error(sdk.missing);
  const { url, apiKey } = sharedDaemon();
  const e2b = { E2B_API_KEY: apiKey, E2B_API_URL: url, E2B_SANDBOX_URL: url };
  const env = { PATH: process.env.PATH, HOME: process.env.HOME, PYTHONDONTWRITEBYTECODE: "1", ...e2b };
  const [runner, script] = ["fixtures/run_to_end.py", path].map((each) =>
    fileURLToPath(new URL(each, import.meta.url)),
  );
  const options = { env, timeout: 150_000 };
  return new Promise((resolve, reject) => {
    execFile(sdk.python, [runner ?? "", script ?? "", ...args], options, (error, stdout, stderr) => {
      if (!error) resolve(stdout);
      else reject(new Error(`the script ended with ${error.signal ?? error.code}\n${stdout}\n${stderr}`));
    });
  });
}

describe.skipIf("missing" in sdk)(title, () => {
  test("commands, files and sandboxes' lives are as promised, synchronous and not", async () => {
    const lines = (await runScript("fixtures/sandboxes.py")).trim().split("\n");
    const steps = Object.fromEntries(
      lines.map((line) => JSON.parse(line)).map(({ step, value }) => [step, value] as const),
    );
    expect(steps).toEqual({
      run: [
        0,
        "out 1 2\n",
        "err\n",
        [
          ["err", "err\n"],
          ["out", "out 1 2\n"],
        ],
      ],
      "exit code": [7, "before\n"],
      "time-out": "TimeoutException",
      listed: [true],
      background: "got it\n",
      kill: [true, false, "CommandExitException"],
      read: ["texté", true],
      list: [
        ["1", "file", 1],
        ["2", "file", 2],
      ],
      rename: "/home/user/d/3",
      exists: [false, true, true],
      missing: "FileNotFoundException",
      watch: ["new"],
      info: [true, true, "running"],
      found: [true],
      "not found": 0,
      connect: "same\n",
      expired: [false, false],
      "async run": [0, "async 1\n"],
      "async together": ["0\n", "1\n", "2\n", "3\n", "4\n"],
      "async read": "x",
      "async list": [true],
      "async kill": true,
      "async watch": "watched",
      "async pty": true,
      "async killed": true,
    });
  });

  test.each(["Sandbox", "AsyncSandbox"])("every feature of %s", async (face) => {
    const lines = (await runScript("fixtures/features.py", face)).trim().split("\n");
    const steps = Object.fromEntries(
      lines.map((line) => JSON.parse(line)).map(({ step, value }) => [step, value] as const),
    );
    expect(steps).toEqual({
      run: [0, "/tmp g l root\n", "e\n", ["/tmp g l root\n", "e\n"]],
      list: [true],
      input: "one\ntwo\nthree\nfour\nover\n",
      "late connect": 0,
      kill: [true, false],
      disconnect: 1,
      errors: [
        "CommandExitException",
        "TimeoutException",
        "InvalidArgumentException",
        "AuthenticationException",
        "NotFoundException",
        "NotFoundException",
        "NotFoundException",
      ],
      large: [3_000_001, "x\ufffd"],
      "pty exit": 3,
      pty: [true, true],
      "pty kill": [true, true, false],
      forms: [true, true, true, true],
      "read plain": [true, true],
      "read gzip": [true, true],
      many: true,
      info: ["root", 0o644, "-rw-r--r--", 1, { kind: "report" }],
      link: "/home/user/many/1",
      dirs: [true, false],
      tree: ["/home/user/tree/b", "/home/user/tree/b/z"],
      rename: "/home/user/moved/z",
      exists: [false, true],
      "file errors": [
        ...Array<string>(4).fill("FileNotFoundException"),
        "InvalidArgumentException",
        "AuthenticationException",
      ],
      watch: [true, true],
      "watch nothing": "FileNotFoundException",
      signed: ["x", "signature is already expired", "invalid signature", "invalid signature"],
      git: [["main", "side"], "side", "1"],
      "sandbox info": ["running", "0.6.13", { job: "features" }, 2],
      metrics: [true, 2],
      network: ["0.0.0.0/0"],
      options: [false, { on_timeout: "pause", auto_resume: true }, true],
      host: true,
      snapshot: [true, "1", [true, false]],
      fork: ["1", true],
      pause: [true, false, false],
      resumed: [true, "1"],
      refused: ["SandboxException", "SandboxException", "SandboxNotFoundException"],
      killed: [true, false],
    });
  });

  test.each(["Template", "AsyncTemplate"])("template builds of %s", async (face) => {
    const lines = (await runScript("fixtures/templates.py", face)).trim().split("\n");
    const steps = Object.fromEntries(
      lines.map((line) => JSON.parse(line)).map(({ step, value }) => [step, value] as const),
    );
    expect(steps).toEqual({
      built: [true, ["v1", "two"], true],
      sandbox: ["/srv/pages", "builder", "blue", "ran", "run.sh", "more.txt", "user", "home"],
      exists: [true, false],
      assigned: [["three"], true],
      tags: ["three", "v1"],
      failed: ["BuildException", "failed to run command 'echo why; exit 3': exit status 3"],
      image: ["BuildException", expect.stringContaining("fromImage ('python:3') is not supported by this daemon yet")],
      unknown: ["TemplateException", expect.stringContaining("template 'nobody' not found")],
    });
    const template = `/templates/python-${face.toLowerCase()}`;
    expect((await api(template, { method: "DELETE" })).status).toBe(204);
  });

  test("the example runs", async () => {
    const output = await runScript("../../examples/first_sandbox.py");
    expect(output).toMatch(/ms {2}create a sandbox\n/);
    expect(output).toContain("'hi, A=1\\n' 'err\\n'");
    expect(output).toMatch(/'x'\n/);
    expect(output).toMatch(/ms {2}kill\n/);
  });
});
