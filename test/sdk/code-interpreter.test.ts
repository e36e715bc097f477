/** E2B's code interpreter SDK of npm, unmodified, on template code-interpreter-v1 of a real machine. */
import { fileURLToPath } from "node:url";
import { Sandbox } from "@e2b/code-interpreter";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sharedDaemon } from "../support/clients/sdk.ts";
import { runUserProgram } from "../support/clients/user-program.ts";
import { cellsOf } from "../support/code-interpreter/cells.ts";
import { JavaScriptClient, seenOf } from "../support/code-interpreter/javascript-steps.ts";
import { expectedSteps, type Step } from "../support/code-interpreter/steps.ts";
import { exampleOutput, makeTemplate, notRun, variant } from "../support/code-interpreter/template.ts";
import { connectionTo } from "../support/daemon/requests.ts";
import { titleOf } from "../support/skipped-title.ts";

const example = (name: string) => fileURLToPath(new URL(`../../examples/${name}`, import.meta.url));

const cells = cellsOf(variant);

describe.skipIf(notRun)(titleOf("npm's SDK on template code-interpreter-v1", notRun), () => {
  let client: JavaScriptClient;

  beforeAll(async () => {
    await makeTemplate();
    client = await JavaScriptClient.create(sharedDaemon(), { envs: { FOO: "sandbox" } });
  }, 900_000);
  afterAll(() => client?.[Symbol.asyncDispose]());

  test.each(cells)("$row", async ({ code, language, envs, expected }) => {
    expect(seenOf(await client.run(code, { language, envs }))).toMatchObject(expected);
  });

  test.each(Object.entries(expectedSteps))("%s", async (step, expected) => {
    expect(await client.steps[step as Step]()).toEqual(expected);
  });

  test("cells run as root, with root's home", async () => {
    const { results } = await client.run("import os\n[os.geteuid(), os.path.expanduser('~')]");
    expect(results[0]?.json).toEqual([0, "/root"]);
  });

  test.runIf(variant === "lean")(
    "a language that the lean variant lacks is refused with what makes the full one",
    async () => {
      const ask = `curl -s localhost:49999/contexts -d '{"language":"r"}'`;
      const { stdout } = await client.sandbox.commands.run(ask);
      expect(stdout).toMatch(
        /^Failed to create context: .* lean .* no r; .*`npx firkin template add code-interpreter`/,
      );
    },
  );

  test("the JavaScript example runs to its end", async () => {
    expect(await runUserProgram(process.execPath, [example("code-interpreter.mjs")])).toMatch(exampleOutput);
  });

  test("after a pause without memory the service comes up by itself, with new contexts", async () => {
    await using other = await JavaScriptClient.create(sharedDaemon());
    await other.run("lost = 1\nopen('kept', 'w').write('on disk')");
    await other.sandbox.pause({ keepMemory: false });
    const back = await Sandbox.connect(other.sandbox.sandboxId, connectionTo(sharedDaemon()));
    const read = () =>
      back.runCode("open('kept').read()").then(
        ({ text }) => text,
        () => "not yet",
      );
    await expect.poll(read, { timeout: 150_000 }).toBe("on disk");
    expect((await back.runCode("lost")).error?.name).toBe("NameError");
  });
});
