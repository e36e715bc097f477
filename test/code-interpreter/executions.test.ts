/** Executions and contexts of the code interpreter service: order, interrupts, deaths, and clients that leave. */
import { existsSync, readFileSync } from "node:fs";
import { get } from "node:http";
import { connect } from "node:net";
import { expect, test } from "vitest";
import { describeService, linesOf } from "../support/code-interpreter/local-service.ts";
import { killProcess } from "../support/kill-process.ts";

describeService("executions", {}, (service) => {
  const run = (code: string, options = {}) => service.sandbox.runCode(code, options);

  test("contexts are listed in order, with python and javascript from the start", async () => {
    const made = await service.sandbox.createCodeContext({ cwd: "/tmp", language: " Python " });
    const all = await service.sandbox.listCodeContexts();
    expect(all.slice(0, 2).map(({ language, cwd }) => [language, cwd])).toEqual([
      ["python", service.home],
      ["javascript", service.home],
    ]);
    expect(all.at(-1)).toEqual({ id: made.id, language: "python", cwd: "/tmp" });
    expect((await run("import os; os.getcwd()", { context: made })).text).toBe("/tmp");
    await run("os.chdir('/')", { context: made });
    await service.sandbox.restartCodeContext(made);
    const restarted = await run("import os; os.getcwd()", { context: made });
    expect([restarted.text, restarted.executionCount]).toEqual(["/tmp", 1]);
    await service.sandbox.removeCodeContext(made);
    await expect(run("1", { context: made })).rejects.toThrow(`Context ${made.id} not found`);
  });

  test("a default context that was removed is made anew", async () => {
    await run("kept = 1", { language: "bash" });
    const bash = (await service.sandbox.listCodeContexts()).at(-1);
    await service.sandbox.removeCodeContext(bash?.id ?? "");
    expect((await run("echo again", { language: "bash" })).logs.stdout).toEqual(["again\n"]);
  });

  test("requests that are wrong are refused with the status and the text that E2B gives", async () => {
    const post = async (path: string, body: string) => {
      const answer = await service.call(path, { method: "POST", body });
      return [answer.status, await answer.text()];
    };
    expect(await post("/execute", '{"code":"1","language":"python","context_id":"x"}')).toEqual([
      400,
      "Only one of context_id or language can be provided",
    ]);
    expect(await post("/execute", '{"code":"1","context_id":"x"}')).toEqual([404, "Context x not found"]);
    expect(await post("/execute", '{"code":{}}')).toEqual([422, expect.stringContaining("string_type")]);
    expect(await post("/execute", "{}")).toEqual([422, expect.stringContaining("Field required")]);
    expect(await post("/execute", "{")).toEqual([422, expect.stringContaining("json_invalid")]);
    expect(await post("/contexts", '{"language":"cobol"}')).toEqual([
      500,
      "Failed to create context: there is no kernel for 'cobol'; there are python, javascript, typescript, bash, r, java",
    ]);
    expect(await post("/contexts", '{"cwd":"/none"}')).toEqual([
      500,
      expect.stringContaining("Failed to set working directory"),
    ]);
    expect(await post("/contexts/x/restart", "")).toEqual([404, "Context x not found"]);
    expect((await service.call("/nothing?source=ci")).status).toBe(404);
    expect((await service.call("/execute?source=ci")).headers.get("allow")).toBe("POST");
    const preflight = { origin: "http://x", "access-control-request-method": "POST" };
    const allowed = await service.call("/execute", { method: "OPTIONS", headers: preflight });
    expect([allowed.status, allowed.headers.get("access-control-allow-origin")]).toEqual([200, "*"]);
  });

  test("a client whose time is over interrupts its cell, and the context goes on with its state", async () => {
    await run("import time, asyncio\nstate = 7");
    for (const code of ["time.sleep(60)", "await asyncio.sleep(60)", "!sleep 60", "while True: pass"]) {
      await expect(run(code, { timeoutMs: 300 })).rejects.toThrow("Execution timed out");
      expect((await run("state")).text).toBe("7");
    }
  });

  test("a cell that does not give way is ended with its kernel", async () => {
    const context = await service.sandbox.createCodeContext();
    await run("import time\nstate = 7", { context });
    const stubborn = "while True:\n  try: time.sleep(60)\n  except KeyboardInterrupt: pass";
    await expect(run(stubborn, { context, timeoutMs: 300 })).rejects.toThrow("Execution timed out");
    expect((await run("state", { context })).error?.name).toBe("NameError");
  });

  test("executions of a context wait for each other, and contexts run side by side", async () => {
    const context = await service.sandbox.createCodeContext();
    const other = await service.sandbox.createCodeContext();
    await run("import os, time\nseen = []", { context });
    const wait = "while not os.path.exists('gate'): time.sleep(0.01)\nseen.append('first')";
    const first = run(wait, { context });
    const left = run("seen.append('left')", { context, timeoutMs: 200 });
    await expect(left).rejects.toThrow("Execution timed out");
    const second = run("seen.append('second'); seen", { context });
    await run("open('gate', 'w').close()", { context: other });
    await first;
    expect((await second).text).toBe("['first', 'second']");
  });

  test("a kernel that dies is replaced under the same id, and one that is left ends without an error", async () => {
    const context = await service.sandbox.createCodeContext({ cwd: "/tmp" });
    const died = await run("import os\nos._exit(1)", { context });
    expect(died.error).toMatchObject({ name: "ContextRestarting", value: "Context was restarted", traceback: "" });
    const next = await run("import os; os.getcwd()", { context });
    expect([next.text, next.executionCount]).toEqual(["/tmp", 1]);
    expect((await run("exit()", { context })).error).toBeUndefined();
    expect((await run("1", { context })).executionCount).toBe(1);
    expect((await run("raise SystemExit", { context })).error?.name).toBe("SystemExit");
  });

  test("a restart and a removal end the execution under way", async () => {
    const context = await service.sandbox.createCodeContext();
    for (const end of ["restartCodeContext", "removeCodeContext"] as const) {
      const { promise: started, resolve: onStdout } = withResolvers();
      const running = run("print('on')\nimport time\ntime.sleep(60)", { context, onStdout: () => onStdout() });
      await started;
      await service.sandbox[end](context);
      expect((await running).error?.name).toBe("UnexpectedEndOfExecution");
    }
  });

  test("a hundred executions in ten contexts, of two clients, all end with their own result", async () => {
    const contexts = await Promise.all(Array.from({ length: 10 }, () => service.sandbox.createCodeContext()));
    const all = Array.from({ length: 100 }, async (_, index) => {
      const { text } = await run(`${index} * 2`, { context: contexts[index % 10] });
      return Number(text) / 2;
    });
    expect(await Promise.all(all)).toEqual(Array.from({ length: 100 }, (_, index) => index));
    await Promise.all(contexts.map((context) => service.sandbox.removeCodeContext(context)));
  });

  test("a large output flows while the client reads, and memory does not grow with it", async () => {
    const { text, lines } = await linesOf(service, { code: "for i in range(1000): print('x' * 50_000)" });
    expect(text.length).toBeGreaterThan(50_000_000);
    expect(lines.at(-1)).toEqual({ type: "end_of_execution" });
    const client = connect(Number(new URL(service.url).port), "127.0.0.1");
    const body = JSON.stringify({ code: "for i in range(100_000): print('x' * 50_000)" });
    client.pause();
    client.write(`POST /execute HTTP/1.1\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(rssMiB(service.front.pid ?? 0)).toBeLessThan(200);
    client.destroy();
    expect((await run("1")).text).toBe("1");
  });

  test("the front's death costs the contexts, and the port answers all the while", async () => {
    await run("state = 7");
    service.front.kill("SIGKILL");
    // A connection of its own, because the SDK's may have been cut.
    const asked = new Promise((resolve, reject) => {
      get(`${service.url}/contexts`, { agent: false }, ({ statusCode }) => resolve(statusCode)).once("error", reject);
    });
    await service.startFront();
    expect(await asked).toBe(200);
    expect((await run("state")).error?.name).toBe("NameError");
    expect((await service.sandbox.listCodeContexts()).map(({ language }) => language)).toEqual([
      "python",
      "javascript",
    ]);
  });

  test("kernels that are in a cell end when the front has died, also without the fork server that forked them", async () => {
    for (const dies of [false, true]) {
      const pids = await Promise.all(
        (
          [
            ["python", "import os\nprint(os.getpid(), flush=True)\nwhile True: pass"],
            ["javascript", "console.log(process.pid); while (true) {}"],
            ["bash", "echo $PPID; while :; do :; done"],
          ] as const
        ).map(
          ([language, code]) =>
            new Promise<number>((resolve) => {
              // The connection breaks.
              run(code, { language, onStdout: ({ line }: { line: string }) => resolve(Number(line)) }).catch(() => {});
            }),
        ),
      );
      const isThere = (pid: number) => existsSync(`/proc/${pid}`);
      expect(pids.map(isThere)).toEqual([true, true, true]);
      if (dies) killProcess(service.forkServer(), "SIGKILL");
      service.front.kill("SIGKILL");
      await service.startFront();
      await expect.poll(() => pids.map(isThere)).toEqual([false, false, false]);
    }
  });

  test("the fork server's death costs nothing, and contexts can be made again", async () => {
    await run("state = 7");
    const before = service.forkServer();
    killProcess(before, "SIGKILL");
    expect(await run("state")).toMatchObject({ text: "7" });
    const contexts = await Promise.all([1, 2, 3].map(() => service.sandbox.createCodeContext()));
    expect((await run("8", { context: contexts[2] })).text).toBe("8");
    expect(service.forkServer()).not.toBe(before);
    expect((await run("state")).text).toBe("7");
  });
});

function withResolvers(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

function rssMiB(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;
}
