/** R and Java in the code interpreter service, which the full variant of its template has. */
import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { describeService } from "../support/code-interpreter/local-service.ts";

const has = (program: string) => spawnSync(program, ["--version"]).status === 0;
const lacking = has("R") && has("javac") ? undefined : "R and Java are not installed";

describeService("R and Java", { variables: { FOO: "sandbox" }, lacking }, (service) => {
  const r = (code: string, options = {}) => service.sandbox.runCode(code, { language: "r", ...options });
  const java = (code: string, options = {}) => service.sandbox.runCode(code, { language: "java", ...options });

  test("R: output, values in every format, and state that lives on", async () => {
    const first = await r("x <- 1:3; print('Hello, World!'); message('no')");
    expect([first.logs.stdout.join(""), first.logs.stderr.join("")]).toEqual(['[1] "Hello, World!"\n', "no\n"]);
    const value = await r("x");
    expect(value.text).toBeUndefined();
    expect(value.results[0]).toMatchObject({
      text: "[1] 1 2 3",
      html: expect.stringContaining("<li>2</li>"),
      isMainResult: false,
    });
    expect((await r("data.frame(a = 1:2)")).results[0]).toMatchObject({
      html: expect.stringContaining("<table"),
      markdown: expect.any(String),
      latex: expect.any(String),
    });
    expect((await r("invisible(7)")).results).toEqual([]);
    expect((await r("'größe 日本'")).results[0]?.text).toBe('[1] "größe 日本"');
    expect((await r("")).executionCount).toBe(6);
  });

  test("R: a plot is an image, and figures come one by one", async () => {
    const { results } = await r("plot(1:3)\nlines(3:1)\nhist(c(1, 2, 2))$breaks[1]");
    expect(results.map(({ png, text }) => png?.slice(0, 5) ?? text)).toEqual(["[1] 1", "iVBOR", "iVBOR"]);
    expect((await r("dev.list()")).results[0]?.text).toBe("NULL");
  });

  test("R: errors as Jupyter names them, interrupts with the state kept, and a process that ends", async () => {
    const { error } = await r("stop('boom')");
    expect(error).toMatchObject({ name: "ERROR", value: "Error in eval(expr, envir, enclos): boom\n" });
    expect(error?.traceback).toContain('1. stop("boom")');
    const inner = (await r("f <- function(a) stop('deep')\nf(1)")).error;
    expect([inner?.value, inner?.traceback.includes("1. f(1)")]).toEqual(["Error in f(1): deep\n", true]);
    expect((await r("1 +")).error).toMatchObject({ name: "ERROR", value: expect.stringContaining("unexpected end") });
    await r("kept <- 5");
    for (const code of ["Sys.sleep(60)", "while (TRUE) 1"]) {
      await expect(r(code, { timeoutMs: 500 })).rejects.toThrow("Execution timed out");
      expect((await r("kept")).results[0]?.text).toBe("[1] 5");
    }
    expect((await r("q()")).error).toBeUndefined();
    expect((await r("exists('kept')")).results[0]?.text).toBe("[1] FALSE");
    expect((await r("tools::pskill(Sys.getpid(), 9)")).error?.name).toBe("ContextRestarting");
    expect((await r("getwd()")).results[0]?.text).toBe(`[1] "${service.home}"`);
  });

  test("Java: a line is two events, values lose their quotes, and declarations live on", async () => {
    const first = await java('System.out.println("Hello, World!");');
    expect(first.logs.stdout).toEqual(["Hello, World!", "\n"]);
    expect((await java('int x = 5;\nString f(int n) { return "f" + n; }')).results).toEqual([]);
    const value = await java("x++;\nf(x)");
    expect([value.text, value.results[0]?.isMainResult]).toEqual(["f6", true]);
    expect((await java('List.of("größe", "日本")')).text).toBe("[größe, 日本]");
    expect((await java("class A { int n = 3; }\nvar a = new A();\nfor (int i = 0; i < 2; i++) a.n++;\na.n")).text).toBe(
      "5",
    );
    expect((await java('System.err.print("no")')).logs.stderr).toEqual(["no"]);
  });

  test("Java: exceptions, code that is none, interrupts with the state kept, and a process that ends", async () => {
    const { error } = await java('throw new RuntimeException("x");');
    expect(error).toMatchObject({ name: "RuntimeException", value: "java.lang.RuntimeException, x" });
    expect(error?.traceback).toMatch(/^java\.lang\.RuntimeException: x\n {4}at /);
    expect((await java("int 5 = x;")).error?.name).toBe("CompilationException");
    expect((await java("String s = 1;")).error?.value).toContain("incompatible types");
    expect((await java("foo(")).error?.name).toBe("CompilationException");
    await java("int kept = 7;");
    for (const code of ["Thread.sleep(60_000);", "while (true) {}"]) {
      await expect(java(code, { timeoutMs: 500 })).rejects.toThrow("Execution timed out");
      expect((await java("kept")).text).toBe("7");
    }
    expect((await java("System.exit(0);")).error).toBeUndefined();
    expect((await java("kept")).error?.name).toBe("CompilationException");
    expect((await java("Runtime.getRuntime().halt(3);")).error?.name).toBe("ContextRestarting");
    expect((await java('System.getProperty("user.dir")')).text).toBe(service.home);
  });

  test.each(["r", "java"])("%s: variables of sandbox and execution", async (language) => {
    const code =
      language === "r"
        ? "cat(Sys.getenv('FOO'), Sys.getenv('BAR'))"
        : 'System.out.print(System.getProperty("FOO") + " " + System.getProperty("BAR", ""));';
    const run = async (options = {}) =>
      (await service.sandbox.runCode(code, { language, ...options })).logs.stdout.join("");
    expect(await run({ envs: { FOO: "over", BAR: 'it\'s\n$X "new"' } })).toBe('over it\'s\n$X "new"');
    expect(await run()).toBe("sandbox ");
  });

  test("other contexts of R draw other random numbers, and folders are the contexts' own", async () => {
    const draw = async () => {
      const context = await service.sandbox.createCodeContext({ language: "r", cwd: "/tmp" });
      const { results } = await service.sandbox.runCode("c(getwd(), runif(1))", { context });
      await service.sandbox.removeCodeContext(context);
      return results[0]?.text;
    };
    const [one, other] = [await draw(), await draw()];
    expect(one).toContain('"/tmp"');
    expect(one).not.toBe(other);
  });
});
