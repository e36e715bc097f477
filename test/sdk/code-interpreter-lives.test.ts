/** What becomes of an execution under way when its sandbox is forked or paused, or when the daemon dies. */
import { rm } from "node:fs/promises";
import { Sandbox } from "@e2b/code-interpreter";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { outcomeOf } from "../support/code-interpreter/guest-processes.ts";
import { JavaScriptClient } from "../support/code-interpreter/javascript-steps.ts";
import { makeTemplate, notRun } from "../support/code-interpreter/template.ts";
import { newStateDir, type RealDaemon, startDaemon } from "../support/daemon/real-daemon.ts";
import { connectionTo } from "../support/daemon/requests.ts";
import { titleOf } from "../support/skipped-title.ts";

/** Prints `on`, and goes on until the sandbox's file `gate` is there. */
const waiting =
  "import os, time\nprint('on', flush=True)\nwhile not os.path.exists('gate'): time.sleep(0.05)\nthrough = True\nprint('through')";

describe.skipIf(notRun)(titleOf("executions of the code interpreter that are under way", notRun), () => {
  let stateDir: string;
  let daemon: RealDaemon;

  beforeAll(async () => {
    stateDir = await newStateDir();
    daemon = await startDaemon({ stateDir });
    await makeTemplate(daemon);
  }, 900_000);
  afterAll(async () => {
    await daemon?.[Symbol.asyncDispose]();
    await rm(stateDir, { recursive: true, force: true });
  });

  /** A sandbox with a context that has a state and an execution that waits for its gate. */
  async function begin() {
    const client = await JavaScriptClient.create(daemon);
    const context = await client.sandbox.createCodeContext();
    await client.run("state = 7; through = False", { context });
    let begun = () => {};
    const on = new Promise<void>((resolve) => {
      begun = resolve;
    });
    const outcome = outcomeOf(client.sandbox, waiting, context, begun);
    await on;
    return { client, context, outcome, [Symbol.asyncDispose]: () => client[Symbol.asyncDispose]() };
  }

  const connect = (sandboxId: string) => Sandbox.connect(sandboxId, connectionTo(daemon));
  const openGate = (sandbox: Sandbox) => sandbox.commands.run("touch /home/user/gate");

  test("a fork: the source's client gets its result, and the copy's context was interrupted", async () => {
    await using under = await begin();
    const { client, context, outcome } = under;
    const [child] = await client.sandbox.fork({ count: 1 });
    if (!child || child instanceof Error) throw child ?? new Error("there is no fork");
    const copy = await connect(child.sandboxId);
    expect(await outcomeOf(copy, "print(state, through)", context)).toBe("7 False");
    await openGate(client.sandbox);
    expect(await outcome).toMatch(/^on\s+through$/);
    expect(await outcomeOf(client.sandbox, "print(state, through)", context)).toBe("7 True");
    await copy.kill();
  });

  test("a pause: its client's connection breaks, and the context was interrupted", async () => {
    await using under = await begin();
    const { client, context, outcome } = under;
    await client.sandbox.pause();
    expect(await outcome).toBe("broken");
    const back = await connect(client.sandbox.sandboxId);
    expect(await outcomeOf(back, "print(state, through)", context)).toBe("7 False");
  });

  test("a daemon that is killed: the connection breaks, and the context was interrupted", async () => {
    const { client, context, outcome } = await begin();
    await daemon.kill();
    expect(await outcome).toBe("broken");
    daemon = await startDaemon({ stateDir });
    const back = await connect(client.sandbox.sandboxId);
    const read = () => outcomeOf(back, "print(state, through)", context);
    await expect.poll(read).toBe("7 False");
    await back.kill();
  });
});
