/** The other languages of the code interpreter service: JavaScript and bash. TypeScript is tested in a guest. */
import { expect, test } from "vitest";
import { describeService } from "../support/code-interpreter/local-service.ts";
import { killProcess } from "../support/kill-process.ts";

describeService("languages besides Python", { variables: { FOO: "sandbox" } }, (service) => {
  const js = (code: string, options = {}) => service.sandbox.runCode(code, { language: "js", ...options });
  const bash = (code: string, options = {}) => service.sandbox.runCode(code, { language: "bash", ...options });

  test("JavaScript: values, output, imports and top-level await", async () => {
    const first = await js("console.log('hi'); console.error('no'); 'x'");
    expect([first.text, first.logs.stdout, first.logs.stderr]).toEqual(["x", ["hi\n"], ["no\n"]]);
    expect((await js("undefined")).results).toEqual([]);
    expect((await js("({ a: 1, b: [1, 'x'] })")).text).toBe("{ a: 1, b: [ 1, 'x' ] }");
    expect((await js("import fs, { readFileSync as read } from 'fs';\nfs.readFileSync === read")).text).toBe("true");
    const awaiting =
      "const one = await Promise.resolve(1), [two] = [2];\nclass A { three = 3 }\nfunction four() { return one + 3 }\nfor (var i = 0; i < 5; i++) {}\nfour()";
    expect((await js(awaiting)).text).toBe("4");
    expect((await js("[one, two, new A().three, four(), i]")).text).toBe("[ 1, 2, 3, 4, 5 ]");
    expect((await js("Promise.resolve(6)")).text).toBe("6");
    expect((await js("(await import('node:path')).sep")).text).toBe("/");
    expect((await js("process.cwd()")).text).toBe(service.home);
  });

  test("JavaScript: errors, interrupts with the state kept, and a process that ends", async () => {
    expect((await js("throw new TypeError('boom')")).error).toMatchObject({ name: "TypeError", value: "boom" });
    expect((await js("let let = 1")).error?.name).toBe("SyntaxError");
    await js("var kept = 7");
    for (const code of ["while (true) {}", "await new Promise(() => {})"]) {
      await expect(js(code, { timeoutMs: 300 })).rejects.toThrow("Execution timed out");
      expect((await js("kept")).text).toBe("7");
    }
    expect(
      (await js("setTimeout(() => { throw new Error('late') }, 1); await new Promise(() => {})")).error?.value,
    ).toBe("late");
    expect((await js("process.exit(1)")).error?.name).toBe("ContextRestarting");
    expect((await js("typeof kept")).text).toBe("undefined");
  });

  test("JavaScript: results in other formats", async () => {
    expect((await js("$$.html('<b>')")).results[0]).toMatchObject({ html: "<b>", isMainResult: true });
    expect((await js("$$.display().png(Buffer.from('p'))")).results[0]).toMatchObject({
      png: "cA==",
      isMainResult: false,
    });
    expect((await js("({ _toHtml: () => '<i>' })")).results[0]?.html).toBe("<i>");
    expect((await js("$$.async(); setTimeout(() => $$.sendResult(5), 5)")).text).toBe("5");
  });

  test("bash: both streams are output, a status is an error, and state lives on", async () => {
    const first = await bash("echo hi; echo no >&2; X=5; f() { echo f$1; }; cd /");
    expect([first.logs.stdout.join(""), first.error]).toEqual(["hi\nno\n", undefined]);
    const second = await bash("echo $X; f 1; pwd; false");
    expect([second.logs.stdout.join(""), second.error]).toEqual([
      "5\nf1\n/\n",
      { name: "", value: "1", traceback: "" },
    ]);
    await expect(bash("sleep 60; echo no", { timeoutMs: 300 })).rejects.toThrow("Execution timed out");
    expect((await bash("echo $X")).logs.stdout).toEqual(["5\n"]);
    expect((await bash("exit 3")).logs.stdout.join("")).toBe("exit\nRestarting Bash\n");
    expect((await bash("echo [$X]; pwd")).logs.stdout.join("")).toBe(`[]\n${service.home}\n`);
  });

  test.each(["js", "bash"])("%s: variables of sandbox and execution", async (language) => {
    const code = language === "js" ? "console.log(process.env.FOO, process.env.BAR)" : 'echo "$FOO" "$BAR"';
    const run = async (options = {}) =>
      (await service.sandbox.runCode(code, { language, ...options })).logs.stdout.join("").trim();
    expect(await run({ envs: { FOO: "over", BAR: 'it\'s\n$X !! "new"' } })).toBe('over it\'s\n$X !! "new"');
    expect((await run()).replace(" undefined", "")).toBe("sandbox");
  });

  test("bash: a shell that is killed is a context that restarts, and its context goes on", async () => {
    const context = await service.sandbox.createCodeContext({ language: "bash" });
    const bash = (code: string) => service.sandbox.runCode(code, { context });
    expect((await bash("kept=1; kill -9 $$")).error?.name).toBe("ContextRestarting");
    const pid = Number((await bash("kept=1; echo $$")).logs.stdout.join(""));
    killProcess(pid, "SIGKILL");
    await expect.poll(async () => (await bash("echo $$")).logs.stdout.join("")).not.toBe(`${pid}\n`);
    expect((await bash("[ -v kept ] || echo lost")).logs.stdout).toEqual(["lost\n"]);
  });
});
