/** Python cells in the code interpreter service, through E2B's own SDK. */
import { appendFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { describeService, linesOf } from "../support/code-interpreter/local-service.ts";

describeService("Python cells", { variables: { FOO: "sandbox" }, isLoadedAhead: true }, (service) => {
  const run = (code: string, options = {}) => service.sandbox.runCode(code, options);

  test("a value is the main result, names live on, and cells are counted", async () => {
    const context = await service.sandbox.createCodeContext();
    const first = await run("x = 1; x", { context });
    expect([first.text, first.executionCount, first.results[0]?.isMainResult]).toEqual(["1", 1, true]);
    const broken = await run("1 +", { context });
    expect(broken.error).toMatchObject({ name: "SyntaxError" });
    expect(broken.error?.value).toMatch(/^invalid syntax \(\d+\.py, line 1\)$/);
    const empty = await run("", { context });
    expect([empty.results, empty.executionCount]).toEqual([[], 3]);
    const last = await run("x + 1", { context });
    expect([last.text, last.executionCount]).toEqual(["2", 3]);
  });

  test("output, displays and the value come in the order in which they happened", async () => {
    const { lines, text, headers } = await linesOf(service, { code: 'print("a"); display(1); print("b"); 5' });
    expect(lines.map(({ type, text: shown, is_main_result: isMain }) => [type, shown, isMain])).toEqual([
      ["number_of_executions", undefined, undefined],
      ["stdout", "a\n", undefined],
      ["result", "1", false],
      ["stdout", "b\n", undefined],
      ["result", "5", true],
      ["end_of_execution", undefined, undefined],
    ]);
    expect(lines[1]?.timestamp).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$/);
    expect(text.endsWith('\n{"type": "end_of_execution"}\n')).toBe(true);
    expect(headers.get("content-type")).toBeNull();
  });

  test("what programs and prints write is in order, too", async () => {
    const { logs } = await run("import os\nos.system('echo a')\nprint('b')\nos.system('echo c')\nprint('d')");
    expect(logs.stdout.join("")).toBe("a\nb\nc\nd\n");
  });

  test("three prints in a row are one event, and text that is not ASCII arrives whole", async () => {
    const events: string[] = [];
    await run("for i in range(3): print(i)", { onStdout: ({ line }: { line: string }) => void events.push(line) });
    expect(events).toEqual(["0\n1\n2\n"]);
    const text = "héé日本\u{1f600}\\u2028\\x85".repeat(3);
    const { text: raw } = await linesOf(service, { code: `print(${JSON.stringify("日本\u{1f600}")})` });
    expect(raw).toMatch(/^[\n -~]*$/);
    expect((await run(`print("${text}", end="")`)).logs.stdout.join("")).toBe("héé日本\u{1f600}\u2028\x85".repeat(3));
  });

  test("a partial line is shown while the cell goes on", async () => {
    const seen: string[] = [];
    const running = run("import os, time\nprint('.', end='')\nwhile not os.path.exists('go'): time.sleep(0.01)\n", {
      onStdout: ({ line }: { line: string }) => void seen.push(line),
    });
    await expect.poll(() => seen).toEqual(["."]);
    await run("open('go', 'w').close()", { context: await service.sandbox.createCodeContext() });
    expect((await running).error).toBeUndefined();
  });

  test("an error has its name, its value and a traceback without colours", async () => {
    const { error } = await run("1/0", { context: await service.sandbox.createCodeContext() });
    expect(error).toMatchObject({ name: "ZeroDivisionError", value: "division by zero" });
    expect(error?.traceback).toBe(
      `${"-".repeat(75)}ZeroDivisionError                         Traceback (most recent call last)Cell In[1], line 1\n----> 1 1/0\nZeroDivisionError: division by zero`,
    );
  });

  test("there is no input", async () => {
    expect((await run("input()")).error).toMatchObject({
      name: "StdinNotImplementedError",
      value: "raw_input was called, but this frontend does not support input requests.",
    });
  });

  test("cells are IPython's: shell commands, magics, top-level await, and a body that is indented as a whole", async () => {
    expect((await run("!pwd")).logs.stdout).toEqual([`${service.home}\n`]);
    expect((await run("%lsmagic")).error).toBeUndefined();
    expect((await run("import asyncio\nawait asyncio.sleep(0)\n'done'")).text).toBe("done");
    expect((await run("   a = 3\n   a")).text).toBe("3");
    expect((await run("a;")).results).toEqual([]);
    expect((await run("task = asyncio.create_task(asyncio.sleep(0, 7))")).error).toBeUndefined();
    expect((await run("await task")).text).toBe("7");
  });

  test("one pair of quotes is cut off a text", async () => {
    expect((await run(`"a'b"`)).text).toBe("a'b");
    expect((await run(`'"x"'`)).text).toBe('"x"');
  });

  test("lists and dictionaries are JSON as well, without NaN", async () => {
    const { results } = await run("[1, {2: None}, float('nan')]");
    expect(results[0]).toMatchObject({ text: "[1, {2: None}, nan]", json: [1, { 2: null }, null] });
    expect((await run("[object()]")).results[0]?.json).toBeUndefined();
  });

  test("a data frame has its columns, and its table as HTML", async () => {
    const code =
      "import pandas as pd\npd.DataFrame({'a': [1, None], 't': pd.to_datetime(['2020-01-01', None]), 3: ['x', 'y']})";
    const { results } = await run(code);
    expect(results[0]?.data).toEqual({ a: [1, null], t: ["2020-01-01T00:00:00", "NaT"], 3: ["x", "y"] });
    expect(results[0]?.html).toContain("<table");
  });

  test("a figure is an image and a chart, and comes after the value of its cell", async () => {
    const shown = await run(
      "import matplotlib.pyplot as plt\nplt.plot([1, 2], label='l')\nplt.xlabel('Time (s)')\nplt.show()",
    );
    expect(shown.results).toHaveLength(1);
    expect(shown.results[0]).toMatchObject({
      isMainResult: false,
      text: "<Figure size 640x480 with 1 Axes>",
      extra: {},
    });
    expect(
      Buffer.from(shown.results[0]?.png ?? "", "base64")
        .subarray(1, 4)
        .toString(),
    ).toBe("PNG");
    expect(shown.results[0]?.chart).toMatchObject({
      type: "line",
      title: null,
      x_label: "Time (s)",
      x_unit: "s",
      y_unit: null,
      elements: [
        {
          label: "l",
          points: [
            [0, 1],
            [1, 2],
          ],
        },
      ],
    });
    const pie = await run("_ = plt.pie([1, 3], labels=['x', 'y'])\n1");
    expect(pie.results.map(({ text, chart }) => chart?.type ?? text)).toEqual(["1", "pie"]);
    expect((await run("plt.figure()\nplt.show()")).results[0]?.chart).toEqual({});
    const both = await run("f, (a, b) = plt.subplots(1, 2)\na.plot([1]); b.bar(['x'], [1])\nplt.show()");
    expect(both.results[0]?.chart?.type).toBe("superchart");
    expect(both.logs.stderr).toEqual([]);
  });

  test("images of Pillow show themselves", async () => {
    const make = "from PIL import Image\nimage = Image.new('RGB', (8, 8))";
    const kinds = (results: readonly { png?: string; jpeg?: string; isMainResult: boolean }[]) =>
      results.map(({ png, jpeg, isMainResult }) => [png !== undefined, jpeg !== undefined, isMainResult]);
    expect(kinds((await run(`${make}\nimage`)).results)).toEqual([[true, true, true]]);
    expect(kinds((await run("image.show()")).results)).toEqual([[true, true, false]]);
    expect(kinds((await run("image.save('test.png')")).results)).toEqual([[true, true, false]]);
  });

  test("packages that are loaded ahead are seen once they are imported, and are those of the path", async () => {
    const context = await service.sandbox.createCodeContext();
    const loaded = "import sys\n[name in sys.modules for name in ('numpy', 'pandas', 'matplotlib')]";
    expect((await run(loaded, { context })).results[0]?.json).toEqual([false, false, false]);
    expect((await run("import pandas.plotting", { context })).error).toBeUndefined();
    expect((await run(loaded, { context })).results[0]?.json).toEqual([true, true, false]);
    const other = await service.sandbox.createCodeContext();
    const hide = "import os\nos.mkdir('own'); open('own/numpy.py', 'w').write('mine = 1')\nsys.path.insert(0, 'own')";
    await run(`import sys\n${hide}`, { context: other });
    expect((await run("import numpy\nnumpy.mine", { context: other })).text).toBe("1");
    expect((await run("import numpy\n(numpy.ones((300, 300)) @ numpy.ones((300, 300)))[0, 0]")).text).toBe(
      "np.float64(300.0)",
    );
  });

  test("a package that is loaded ahead is whole, and is not run a second time", async () => {
    const context = await service.sandbox.createCodeContext();
    const code =
      "import matplotlib, numpy, pandas\nfrom numpy import *\n[numpy.exceptions.AxisError, numpy.linalg.norm, pandas.core, matplotlib.rcsetup]";
    const { error, logs } = await run(code, { context });
    expect([error, logs.stderr]).toEqual([undefined, []]);
  });

  test("every MIME type has its field, and others are extra", async () => {
    const code = `display({"text/latex": "l", "text/markdown": "m", "image/svg+xml": "<svg/>", "application/javascript": "j",
      "application/pdf": b"p", "x/y": [1]}, raw=True)`;
    const { lines } = await linesOf(service, { code });
    expect(lines[1]).toEqual({
      type: "result",
      latex: "l",
      markdown: "m",
      svg: "<svg/>",
      javascript: "j",
      pdf: "cA==",
      extra: { "x/y": [1] },
      is_main_result: false,
    });
  });

  test("variables of an execution win, and give way to the sandbox's own afterwards", async () => {
    const read = "import os\n[os.environ.get('FOO'), os.environ.get('BAR')]";
    const envs = { FOO: "execution", BAR: 'it\'s\n"new"' };
    expect((await run(read, { envs })).results[0]?.json).toEqual(["execution", 'it\'s\n"new"']);
    expect((await run(read)).results[0]?.json).toEqual(["sandbox", null]);
    await service.setEnvironment({ E2B_SANDBOX_ID: "first", FOO: "changed" });
    expect((await run(read)).results[0]?.json).toEqual(["changed", null]);
  });

  test("a context of another sandbox draws other random numbers; the same sandbox goes on", async () => {
    const context = await service.sandbox.createCodeContext();
    const draw = async (code = "random.random()") => (await run(code, { context })).text;
    await run("import random\nrandom.seed(1)", { context });
    const seeded = [await draw(), await draw()];
    await run("random.seed(1)", { context });
    expect(await draw()).toBe(seeded[0]);
    await service.setEnvironment({ E2B_SANDBOX_ID: "second" });
    expect(await draw()).not.toBe(seeded[1]);
    const other = await service.sandbox.createCodeContext();
    const first = "import random\nrandom.random()";
    expect((await run(first, { context: other })).text).not.toBe(
      (await run(first, { context: await service.sandbox.createCodeContext() })).text,
    );
  });

  test("a package that was installed anew is the one that the next context imports", async () => {
    await appendFile(join(service.ownPackages, "cycler/__init__.py"), "\nanew = 5\n");
    const context = await service.sandbox.createCodeContext();
    const imported = await run("import numpy, pandas, matplotlib, cycler\ncycler.anew", { context });
    expect([imported.text, imported.error, imported.logs.stderr]).toEqual(["5", undefined, []]);
  });
});
