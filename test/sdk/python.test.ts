/** The unmodified Python SDK on real machines, with its synchronous and its asynchronous face. */
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { installPythonSdk, scriptArguments } from "../support/clients/python-sdk.ts";
import { api, skipReason } from "../support/clients/sdk.ts";
import { runUserProgram } from "../support/clients/user-program.ts";
import { titleOf } from "../support/skipped-title.ts";

const sdk = skipReason ? { missing: skipReason } : await installPythonSdk();
const missing = "missing" in sdk && sdk.missing;

/** Runs a script of fixtures/ and gives the value of each step that it printed. */
async function stepsOf(script: string, ...args: string[]): Promise<Record<string, unknown>> {
  if ("missing" in sdk) throw new Error(sdk.missing);
  const path = fileURLToPath(new URL(`fixtures/${script}`, import.meta.url));
  const output = await runUserProgram(sdk.python, scriptArguments(path, ...args));
  const lines = output.trim().split("\n");
  return Object.fromEntries(lines.map((line) => JSON.parse(line)).map(({ step, value }) => [step, value] as const));
}

describe.skipIf(missing)(titleOf("the Python SDK", missing), () => {
  test("commands, files and the lives of sandboxes are as promised, synchronous and asynchronous", async () => {
    expect(await stepsOf("sandboxes.py")).toEqual({
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

  test.each(["Sandbox", "AsyncSandbox"])("every feature of %s works", async (face) => {
    expect(await stepsOf("features.py", face)).toEqual({
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

  test.each(["Template", "AsyncTemplate"])("templates are built, tagged and used through %s", async (face) => {
    expect(await stepsOf("templates.py", face)).toEqual({
      built: [true, ["v1", "two"], true],
      sandbox: ["/srv/pages", "builder", "blue", "ran", "run.sh", "more.txt", "user", "home"],
      exists: [true, false],
      assigned: [["three"], true],
      tags: ["three", "v1"],
      failed: ["BuildException", "failed to run command 'echo why; exit 3': exit status 3"],
      image: ["BuildException", expect.stringContaining("unable to retrieve image from registry (ECONNREFUSED)")],
      unknown: ["TemplateException", expect.stringContaining("template 'nobody' not found")],
    });
    const template = `/templates/python-${face.toLowerCase()}`;
    expect((await api(template, { method: "DELETE" })).status).toBe(204);
  });
});
