/** E2B's code interpreter SDK of PyPI, unmodified, with its synchronous and its asynchronous face. */
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { installCodeInterpreterSdk, scriptArguments } from "../support/clients/python-sdk.ts";
import { exportedVariables } from "../support/clients/sdk.ts";
import { runUserProgram } from "../support/clients/user-program.ts";
import { cellsOf } from "../support/code-interpreter/cells.ts";
import { expectedSteps } from "../support/code-interpreter/steps.ts";
import { exampleOutput, makeTemplate, notRun, variant } from "../support/code-interpreter/template.ts";
import { newShortFolder } from "../support/short-folder.ts";
import { titleOf } from "../support/skipped-title.ts";

const sdk = notRun ? { missing: notRun } : await installCodeInterpreterSdk();
const missing = "missing" in sdk && sdk.missing;
const runTimeoutMs = 600_000;
const script = fileURLToPath(new URL("fixtures/code_interpreter.py", import.meta.url));
const example = fileURLToPath(new URL("../../examples/code_interpreter.py", import.meta.url));

/** Runs a Python program with the SDK. */
function runPython(...args: readonly [string, ...string[]]): Promise<string> {
  if ("missing" in sdk) throw new Error(sdk.missing);
  return runUserProgram(sdk.python, scriptArguments(...args), exportedVariables(), runTimeoutMs);
}

const cells = cellsOf(variant);

describe.skipIf(missing)(titleOf("PyPI's SDK on template code-interpreter-v1", missing), () => {
  let folder: string;
  let file: string;

  beforeAll(async () => {
    await makeTemplate();
    folder = await newShortFolder();
    file = join(folder, "cells.json");
    await writeFile(file, JSON.stringify(cells.map(({ expected: _, ...cell }) => cell)));
  }, 900_000);
  afterAll(() => rm(folder ?? "", { recursive: true, force: true }));

  describe.each(["Sandbox", "AsyncSandbox"])("%s", (face) => {
    const seen = new Map<string, unknown>();

    test(
      "every step ran",
      async () => {
        const output = await runPython(script, face, file);
        for (const line of output.trim().split("\n")) {
          const { step, value } = JSON.parse(line) as { step: string; value: unknown };
          seen.set(step, value);
        }
        expect([...seen.keys()]).toEqual([...cells.map(({ row }) => row), ...Object.keys(expectedSteps)]);
      },
      runTimeoutMs,
    );

    test.each(cells)("$row", ({ row, expected }) => {
      expect(seen.get(row)).toMatchObject(expected);
    });

    test.each(Object.entries(expectedSteps))("%s", (step, expected) => {
      expect(seen.get(step)).toEqual(expected);
    });
  });

  test("the Python example runs to its end", async () => {
    expect(await runPython(example)).toMatch(exampleOutput);
  });
});
