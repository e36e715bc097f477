/** The examples, each run as a newcomer runs it: to its end, with the variables of `firkin env` alone. */
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { installPythonSdk, scriptArguments } from "../support/clients/python-sdk.ts";
import { skipReason } from "../support/clients/sdk.ts";
import { runUserProgram } from "../support/clients/user-program.ts";
import { titleOf } from "../support/skipped-title.ts";

const folder = fileURLToPath(new URL("../../examples/", import.meta.url));

/** Every example, with the end of what it prints: the last line at least. */
const endings: Readonly<Record<string, RegExp>> = {
  "agent-loop.mjs": /\nreport\.txt: The sum is 55$/,
  "agent_loop.py": /\nreport\.txt: The sum is 55$/,
  "first-sandbox.mjs": /ms {2}create a sandbox\n[\s\S]*stdout hi from \w+, A=1\n[\s\S]*"x"\n[\s\S]*\n +\d+ ms {2}kill$/,
  "first_sandbox.py": /ms {2}create a sandbox\n[\s\S]*'hi, A=1\\n' 'err\\n'\n[\s\S]*'x'\n[\s\S]*\n +\d+ ms {2}kill$/,
  "pause-and-fork.mjs": /\nthe counters of the sandbox and its two forks say 3, 3, 3$/,
  "pause_and_fork.py": /\nthe counters of the sandbox and its two forks say 3, 3, 3$/,
  "ports.mjs": /\n200: Hello from the sandbox$/,
  "template.mjs": /\ndeleted the template: 204$/,
};

/** Run by code-interpreter.test.ts, because they need a template of their own. */
const elsewhere = ["code-interpreter.mjs", "code_interpreter.py"];

test("this test knows every file of examples/", () => {
  const files = readdirSync(folder).filter((name) => name !== "README.md");
  expect(files.sort()).toEqual([...Object.keys(endings), ...elsewhere].sort());
});

function examplesOf(ending: ".mjs" | ".py") {
  return Object.entries(endings).filter(([name]) => name.endsWith(ending));
}

describe.skipIf(skipReason)("the JavaScript examples", () => {
  test.each(examplesOf(".mjs"))("%s runs to its end", async (name, ending) => {
    const output = await runUserProgram(process.execPath, [`${folder}${name}`]);
    expect(output.trimEnd()).toMatch(ending);
  });
});

const sdk = skipReason ? { missing: skipReason } : await installPythonSdk();
const missing = "missing" in sdk && sdk.missing;

describe.skipIf(missing)(titleOf("the Python examples", missing), () => {
  test.each(examplesOf(".py"))("%s runs to its end", async (name, ending) => {
    if ("missing" in sdk) throw new Error(sdk.missing);
    const output = await runUserProgram(sdk.python, scriptArguments(`${folder}${name}`));
    expect(output.trimEnd()).toMatch(ending);
  });
});
