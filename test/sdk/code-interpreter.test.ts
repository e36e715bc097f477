/** E2B's code interpreter SDK, unmodified, on template code-interpreter-v1 of a real machine. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Sandbox, Template } from "@e2b/code-interpreter";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { installCodeInterpreterSdk, scriptArguments } from "../support/clients/python-sdk.ts";
import { skipReason } from "../support/clients/sdk.ts";
import { runUserProgram } from "../support/clients/user-program.ts";
import { cacheDir, type RealDaemon, startDaemon } from "../support/daemon/real-daemon.ts";
import { connectionTo, post } from "../support/daemon/requests.ts";
import { titleOf } from "../support/skipped-title.ts";

const example = (name: string) => fileURLToPath(new URL(`../../examples/${name}`, import.meta.url));
const exampleOutput =
  /^the table's data: .*180[\s\S]*drawn\nthe figure: \d{4,} .* a bar chart .Units sold.\nthe best month: Feb\nan error: KeyError 'price'\n$/;
/** Making the template is minutes of an emulated processor, so CI runs the service on the host instead. */
const isWanted = process.env.FIRKIN_TEST_CODE_INTERPRETER === "yes";
const notRun = skipReason || (!isWanted && "npm run test:code-interpreter runs it");

const python = notRun ? { missing: notRun } : await installCodeInterpreterSdk();
const missing = "missing" in python && python.missing;
const command = fileURLToPath(new URL("../../scripts/cli/firkin.mjs", import.meta.url));

describe.skipIf(notRun)(titleOf("template code-interpreter-v1", notRun), () => {
  let daemon: RealDaemon;
  let sandbox: Sandbox;

  beforeAll(async () => {
    daemon = await startDaemon();
    const refused = await post(daemon, "/v2/sandboxes", { templateID: "code-interpreter-v1" });
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "10"]);
    expect(await refused.json()).toMatchObject({ message: expect.stringContaining("npx firkin template add") });
    // The command waits for the making that the refused create has begun.
    const folders = ["--state-dir", daemon.stateDir, "--cache-dir", cacheDir()];
    const { stdout } = await promisify(execFile)(process.execPath, [
      command,
      "templates",
      "add",
      "code-interpreter",
      ...folders,
    ]);
    expect(stdout).toContain("code-interpreter-v1 is ready");
    sandbox = await create();
  }, 600_000);
  afterAll(() => daemon?.[Symbol.asyncDispose]());

  const create = (options = {}) =>
    Sandbox.create({ timeoutMs: 900_000, ...connectionTo(daemon), envs: { FOO: "sandbox" }, ...options });
  const run = (code: string, options = {}) =>
    sandbox.runCode(code, { timeoutMs: 120_000, requestTimeoutMs: 120_000, ...options });

  test("cells run in Python, with values, errors and the sandbox's environment", async () => {
    const first = await run("x = 1; x");
    expect([first.text, first.executionCount]).toEqual(["1", 1]);
    expect((await run("print('hello')")).logs.stdout).toEqual(["hello\n"]);
    expect((await run("1/0")).error?.name).toBe("ZeroDivisionError");
    expect((await run("!pwd")).logs.stdout).toEqual(["/home/user\n"]);
    expect(
      (await run("import os\n[os.environ['FOO'], os.geteuid(), os.path.expanduser('~')]")).results[0]?.json,
    ).toEqual(["sandbox", 0, "/root"]);
    expect((await run("os.environ['FOO']", { envs: { FOO: "cell" } })).text).toBe("cell");
  });

  test("data frames and figures arrive with their data, table, image and chart", async () => {
    const frame = await run("import pandas as pd\npd.DataFrame({'a': [1, 2]})");
    expect(frame.results[0]).toMatchObject({ data: { a: [1, 2] }, html: expect.stringContaining("<table") });
    const figure = await run("import matplotlib.pyplot as plt\nplt.bar(['x', 'y'], [1, 2])\nplt.show()");
    expect(figure.results[0]?.chart).toMatchObject({
      type: "bar",
      elements: [
        { label: "x", value: 1 },
        { label: "y", value: 2 },
      ],
    });
    expect(figure.results[0]?.png).toMatch(/^iVBOR/);
  });

  test.each([
    ["javascript", "console.log(process.cwd())"],
    [
      "typescript",
      "enum A { B = 'user' }\nconst home: string = '/home/' + A.B\nconsole.log(await Promise.resolve(home))",
    ],
    ["bash", "pwd"],
  ])("%s has a kernel of its own", async (language, code) => {
    expect((await run(code, { language })).logs.stdout.join("")).toBe("/home/user\n");
  });

  const user = () => ({ E2B_API_KEY: daemon.apiKey, E2B_API_URL: daemon.url, E2B_SANDBOX_URL: daemon.url });

  test("the JavaScript example runs to its end", async () => {
    expect(await runUserProgram(process.execPath, [example("code-interpreter.mjs")], user())).toMatch(exampleOutput);
  });

  test.skipIf(missing)(titleOf("the Python example runs to its end", missing), async () => {
    if ("missing" in python) throw new Error(python.missing);
    const output = await runUserProgram(python.python, scriptArguments(example("code_interpreter.py")), user());
    expect(output).toMatch(exampleOutput);
  });

  test("contexts are made, listed, restarted and removed", async () => {
    const context = await sandbox.createCodeContext({ cwd: "/root" });
    expect((await sandbox.listCodeContexts()).map(({ language }) => language)).toContain("javascript");
    expect((await run("import os; y = 2; os.getcwd()", { context })).text).toBe("/root");
    await sandbox.restartCodeContext(context);
    expect((await run("y", { context })).error?.name).toBe("NameError");
    await sandbox.removeCodeContext(context);
    await expect(run("1", { context })).rejects.toThrow("not found");
  });

  test("a pause keeps every variable, and a sandbox of its own draws other random numbers", async () => {
    await run("kept = [1, 2]\nimport random");
    await sandbox.pause();
    sandbox = await Sandbox.connect(sandbox.sandboxId, connectionTo(daemon));
    expect((await run("kept")).text).toBe("[1, 2]");
    const other = await create();
    const draw = "import random; random.random()";
    expect((await other.runCode(draw)).text).not.toBe((await run(draw)).text);
    await other.kill();
  });

  test("a template of one's own inherits the running service", async () => {
    const template = Template().fromTemplate("code-interpreter-v1").runCmd("echo built > /home/user/built");
    await Template.build(template, "derived", connectionTo(daemon));
    const derived = await Sandbox.create("derived", { timeoutMs: 900_000, ...connectionTo(daemon) });
    expect((await derived.runCode("open('built').read().strip()")).text).toBe("built");
    await derived.kill();
  });

  test("a fork has a copy of every context, which goes on by itself", async () => {
    await run("forked = 1");
    const [child] = await sandbox.fork({ count: 1 });
    if (!child || child instanceof Error) throw child ?? new Error("there is no fork");
    const copy = await Sandbox.connect(child.sandboxId, connectionTo(daemon));
    expect((await copy.runCode("forked += 1; forked")).text).toBe("2");
    expect((await run("forked")).text).toBe("1");
    await copy.kill();
  });

  test("after a pause without memory the service comes up by itself, with new contexts", async () => {
    const other = await create();
    await other.runCode("lost = 1\nopen('kept', 'w').write('on disk')");
    await other.pause({ keepMemory: false });
    const back = await Sandbox.connect(other.sandboxId, connectionTo(daemon));
    await expect
      .poll(
        () =>
          back.runCode("open('kept').read()").then(
            ({ text }) => text,
            () => "not yet",
          ),
        { timeout: 150_000 },
      )
      .toBe("on disk");
    expect((await back.runCode("lost")).error?.name).toBe("NameError");
    await back.kill();
  });

  test("a client that leaves interrupts its cell, and a killed sandbox says so", async () => {
    await expect(run("import time\ntime.sleep(600)", { timeoutMs: 1_000 })).rejects.toThrow("Execution timed out");
    expect((await run("kept")).text).toBe("[1, 2]");
    const killed = await create();
    const running = killed.runCode("import time\nprint('on')\ntime.sleep(600)", { onStdout: () => void killed.kill() });
    await expect(running).rejects.toThrow("sandbox was killed while the request was in progress");
  });

  test("all processes of the service come back, and a cell that eats all memory loses its kernel alone", async () => {
    const asRoot = (command: string) => sandbox.commands.run(command, { user: "root" });
    for (const pattern of [
      "[/]opt/firkin/code-interpreter/service.py",
      "[/]opt/firkin/code-interpreter/fork_server.py",
      "kernel[.]mjs",
    ]) {
      await asRoot(`pkill -9 -f '${pattern}'`);
      await expect.poll(async () => (await run("1")).text).toBe("1");
      expect((await run("1", { language: "js" })).text).toBe("1");
    }
    const eaten = await run("eaten = []\nwhile True: eaten.append(bytearray(1 << 26))");
    expect(["ContextRestarting", "MemoryError"]).toContain(eaten.error?.name);
    expect((await run("1")).text).toBe("1");
  });
});
