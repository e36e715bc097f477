/** The code interpreter under load: many executions at once, much output, and a cell that eats all memory. */
import { fileURLToPath } from "node:url";
import { Sandbox } from "@e2b/code-interpreter";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { peakMemoryMiB } from "../../scripts/bench/processes.ts";
import { exportedVariables, sharedDaemon } from "../support/clients/sdk.ts";
import { runUserProgram } from "../support/clients/user-program.ts";
import { outcomeOf, processesIn } from "../support/code-interpreter/guest-processes.ts";
import { JavaScriptClient } from "../support/code-interpreter/javascript-steps.ts";
import { makeTemplate, notRun } from "../support/code-interpreter/template.ts";
import { connectionTo } from "../support/daemon/requests.ts";
import { titleOf } from "../support/skipped-title.ts";

const reader = fileURLToPath(new URL("fixtures/output-reader.mjs", import.meta.url));

describe.skipIf(notRun)(titleOf("load on the code interpreter", notRun), () => {
  let client: JavaScriptClient;

  beforeAll(async () => {
    await makeTemplate();
    client = await JavaScriptClient.create(sharedDaemon());
  }, 900_000);
  afterAll(() => client?.[Symbol.asyncDispose]());

  test("two clients run a hundred executions in ten contexts at once, and each gets its own result", async () => {
    const other = await Sandbox.connect(client.sandbox.sandboxId, connectionTo(sharedDaemon()));
    const clients = [client.sandbox, other];
    const contexts = await Promise.all(Array.from({ length: 10 }, () => client.sandbox.createCodeContext()));
    const seen = await Promise.all(
      Array.from({ length: 100 }, async (_, index) => {
        const context = contexts[index % contexts.length];
        const options = { timeoutMs: 120_000, requestTimeoutMs: 120_000, ...(context && { context }) };
        const execution = await clients[index % 2]?.runCode(`print(${index})\n${index} * 2`, options);
        return [execution?.logs.stdout.join(""), execution?.text];
      }),
    );
    expect(seen).toEqual(Array.from({ length: 100 }, (_, index) => [`${index}\n`, String(index * 2)]));
    // Each ran once, and one at a time: the next one of each context is its eleventh.
    const counts = contexts.map(async (context) => (await client.run("0", { context })).executionCount);
    expect(await Promise.all(counts)).toEqual(contexts.map(() => 11));
    for (const context of contexts) await client.sandbox.removeCodeContext(context);
  });

  test("100 MB of output arrive whole, and neither the client's nor the daemon's memory grows by more", async () => {
    const before = await peakMemoryMiB(sharedDaemon().pid, async () => {});
    let report = { characters: 0, peakMiB: 0 };
    const peak = await peakMemoryMiB(sharedDaemon().pid, async () => {
      const args = [reader, client.sandbox.sandboxId, "100"] as const;
      report = JSON.parse(await runUserProgram(process.execPath, args, exportedVariables()));
    });
    expect(report.characters).toBe(100_000_000);
    // The SDK keeps all of it, and its parser a piece at a time.
    expect(report.peakMiB).toBeLessThan(500);
    expect(peak - before).toBeLessThan(100);
  });

  test("a client that does not read holds the cell back, and nothing between them fills up", async () => {
    const daemon = sharedDaemon();
    const context = await client.sandbox.createCodeContext();
    const before = await peakMemoryMiB(daemon.pid, async () => {});
    const leaving = new AbortController();
    const answer = await fetch(`${daemon.url}/execute`, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        "e2b-sandbox-id": client.sandbox.sandboxId,
        "e2b-sandbox-port": "49999",
      },
      body: JSON.stringify({
        context_id: context.id,
        code: "done = 0\nfor done in range(1000): print('x' * 999_999)",
      }),
      signal: leaving.signal,
    });
    expect(answer.status).toBe(200);
    const peak = await peakMemoryMiB(daemon.pid, async () => {
      await new Promise((resolve) => setTimeout(resolve, 3_000));
    });
    expect(peak - before).toBeLessThan(100);
    const front = (await processesIn(client.sandbox)).find(({ command }) => /\/service\.py/.test(command));
    const { stdout } = await client.sandbox.commands.run(`grep VmRSS /proc/${front?.pid}/status`, { user: "root" });
    expect(Number(/\d+/.exec(stdout)?.[0]) / 1024).toBeLessThan(150);
    leaving.abort();
    // The cell was interrupted before its end, and its context goes on.
    expect(Number(await outcomeOf(client.sandbox, "print(done)", context))).toBeLessThan(900);
    await client.sandbox.removeCodeContext(context);
  });

  test.each([
    ["at once", "x = bytearray(4 << 30)"],
    ["piece by piece", "x = []\nwhile True: x.append(bytearray(b'1' * (4 << 20)))"],
    [
      "in many processes",
      "import subprocess, sys\nhog = \"x = []\\nwhile True: x.append(bytearray(b'1' * (4 << 20)))\"\nhogs = [subprocess.Popen([sys.executable, '-c', hog]) for _ in range(4)]\n[hog.wait() for hog in hogs]\nraise MemoryError",
    ],
  ])("a cell that eats all memory %s costs its own context alone", async (_, code) => {
    const [hungry, other] = [await client.sandbox.createCodeContext(), await client.sandbox.createCodeContext()];
    await client.run("kept = 5", { context: other });
    expect(["MemoryError", "ContextRestarting"]).toContain(await outcomeOf(client.sandbox, code, hungry));
    expect((await client.run("kept", { context: other })).text).toBe("5");
    expect((await client.run("x = None; 1 + 1", { context: hungry })).text).toBe("2");
    for (const context of [hungry, other]) await client.sandbox.removeCodeContext(context);
  });
});
