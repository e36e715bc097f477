/** The steps of steps.ts in JavaScript, on the sandbox of a client. */
import { type Execution, type Result, Sandbox, Template } from "@e2b/code-interpreter";
import { connectionTo } from "../daemon/requests.ts";
import { imageCharacters, type Seen } from "./cells.ts";
import type { Step } from "./steps.ts";

type Served = Parameters<typeof connectionTo>[0];
const binary = ["png", "jpeg", "pdf"];

/** An execution as the tables of cells have it. */
export function seenOf({ results, logs, error, executionCount, text }: Execution): Seen {
  return {
    text: text ?? null,
    count: executionCount ?? null,
    ...logs,
    error: error ? { name: error.name, value: error.value, traceback: error.traceback } : null,
    results: results.map(fieldsOf),
  };
}

function fieldsOf(result: Result): Record<string, unknown> {
  const { type: _, ...fields } = result.raw as unknown as Record<string, unknown>;
  const shortened = Object.entries(fields).map(([name, value]) => {
    return [name, binary.includes(name) ? String(value).slice(0, imageCharacters) : value] as const;
  });
  return {
    ...Object.fromEntries(shortened),
    is_main_result: result.isMainResult,
    formats: [...result.formats()].sort(),
  };
}

const kindOf = (error: unknown) => (error as Error).constructor.name.replace(/Error$/, "");
const failure = (call: Promise<unknown>) =>
  call.then(
    () => undefined,
    (error: Error) => error,
  );

export class JavaScriptClient implements AsyncDisposable {
  readonly #daemon: Served;
  #sandbox: Sandbox;

  private constructor(daemon: Served, sandbox: Sandbox) {
    this.#daemon = daemon;
    this.#sandbox = sandbox;
  }

  static async create(daemon: Served, options: object = {}): Promise<JavaScriptClient> {
    const sandbox = await Sandbox.create({ timeoutMs: 900_000, ...connectionTo(daemon), ...options });
    return new JavaScriptClient(daemon, sandbox);
  }

  static async connect(daemon: Served, sandboxId: string): Promise<JavaScriptClient> {
    return new JavaScriptClient(daemon, await Sandbox.connect(sandboxId, connectionTo(daemon)));
  }

  get sandbox(): Sandbox {
    return this.#sandbox;
  }

  async [Symbol.asyncDispose]() {
    await this.#sandbox.kill();
  }

  run(code: string, options = {}): Promise<Execution> {
    return this.#sandbox.runCode(code, { timeoutMs: 120_000, requestTimeoutMs: 120_000, ...options });
  }

  /** What each step gives. */
  readonly steps: Readonly<Record<Step, () => Promise<unknown>>> = {
    "state and count": async () => {
      const context = await this.#sandbox.createCodeContext();
      const first = await this.run("x = 1 +", { context });
      await this.run("x = 1", { context });
      const last = await this.run("x + 1", { context });
      return [first.error?.name, first.executionCount, last.text, last.executionCount];
    },
    connect: async () => {
      await this.run("kept = 5");
      const again = await Sandbox.connect(this.#sandbox.sandboxId, connectionTo(this.#daemon));
      return (await again.runCode("kept")).text;
    },
    callbacks: () => this.#callbacks(),
    "contexts: made": () =>
      this.#withContext(async (chosen) => {
        const plain = await this.#sandbox.createCodeContext();
        return [plain.language, plain.cwd, chosen.language, chosen.cwd];
      }),
    "contexts: listed": () =>
      this.#withContext(async ({ id }) => {
        const listed = await this.#sandbox.listCodeContexts();
        return [listed.slice(0, 2).map(({ language }) => language), listed.at(-1)?.id === id];
      }),
    "contexts: folder": () => this.#withContext(async (context) => (await this.run("process.cwd()", { context })).text),
    "contexts: independent": async () => {
      const context = await this.#sandbox.createCodeContext();
      await this.run("own = 1", { context });
      return (await this.run("own")).error?.name;
    },
    "contexts: restarted": async () => {
      const context = await this.#sandbox.createCodeContext();
      await this.run("own = 1", { context });
      await this.#sandbox.restartCodeContext(context);
      const { error, executionCount } = await this.run("own", { context });
      return [error?.name, executionCount];
    },
    "contexts: removed": async () => {
      const context = await this.#sandbox.createCodeContext();
      await this.#sandbox.removeCodeContext(context.id);
      return kindOf(await failure(this.run("1", { context })));
    },
    "contexts: with a language": () =>
      this.#withContext(async (context) => kindOf(await failure(this.run("1", { context, language: "python" })))),
    "contexts: unknown language": async () => {
      const error = await failure(this.#sandbox.createCodeContext({ language: "cobol" }));
      return [kindOf(error), error?.message.slice(0, 25)];
    },
    "contexts: unknown folder": async () => kindOf(await failure(this.#sandbox.createCodeContext({ cwd: "/nowhere" }))),
    "two at once": async () => {
      const [context, other] = [await this.#sandbox.createCodeContext(), await this.#sandbox.createCodeContext()];
      const wait = "import os, time\nwhile not os.path.exists('gate'): time.sleep(0.01)\nprint('waited')";
      const behind = "os.remove('gate') if 'os' in globals() else None; 7";
      const all = [this.run(wait, { context }), this.run(behind, { context })] as const;
      const opening = await this.run("open('gate', 'w').close()", { context: other });
      return [opening.error === undefined, (await all[0]).logs.stdout, (await all[1]).text];
    },
    "leaving a queue": async () => {
      const [context, other] = [await this.#sandbox.createCodeContext(), await this.#sandbox.createCodeContext()];
      const untilEnd =
        "import os, time\nopen('begun', 'w').close()\nwhile not os.path.exists('end'): time.sleep(0.01)\n'ended'";
      const running = this.run(untilEnd, { context });
      // Otherwise the second request may be the first to arrive.
      await this.run("import os, time\nwhile not os.path.exists('begun'): time.sleep(0.01)\nos.remove('begun')", {
        context: other,
      });
      const left = await failure(this.run("left = 1", { context, timeoutMs: 500 }));
      await this.run("open('end', 'w').close()", { context: other });
      const whole = await running;
      const after = await this.run("os.remove('end'); 'left' in globals()", { context });
      return [whole.text, kindOf(left), after.text];
    },
    interrupt: async () => {
      const late = await failure(this.run("import time; time.sleep(600)", { timeoutMs: 1_000 }));
      return [kindOf(late), late?.message.slice(0, 19), (await this.run("1 + 1")).text];
    },
    "a silence": async () => (await this.run("import time; time.sleep(6); 'over'")).text,
    "a large output": async () => {
      const { logs } = await this.run("for _ in range(400): print('x' * 49_999)");
      return logs.stdout.reduce((sum, part) => sum + part.length, 0);
    },
    "a kernel's death": async () => {
      const context = await this.#sandbox.createCodeContext();
      const { error } = await this.run("import os; os.chdir('/tmp'); os._exit(1)", { context });
      const next = await this.run("import os; print(os.getcwd(), os.environ['FOO'])", { context });
      return [[error?.name, error?.value], next.logs.stdout, next.executionCount];
    },
    serialised: async () => {
      const { results, logs, error } = (await this.run("print('out')\n[1]")).toJSON();
      return [results.map(({ text, json }) => ({ json, text })), logs, error ?? null];
    },
    "pause and resume": async () => {
      // Of all rows before there are some twenty, which with R's and Java's fill the sandbox.
      for (const { id, language } of await this.#sandbox.listCodeContexts()) {
        if (language !== "python") await this.#sandbox.removeCodeContext(id);
      }
      await this.run("import random; lived = 1; drawn = random.random()");
      const ids = (await this.#sandbox.listCodeContexts()).map(({ id }) => id);
      await this.#sandbox.pause();
      this.#sandbox = await Sandbox.connect(this.#sandbox.sandboxId, connectionTo(this.#daemon));
      const after = (await this.#sandbox.listCodeContexts()).map(({ id }) => id);
      return [(await this.run("lived")).text, String(after) === String(ids)];
    },
    fork: async () => {
      const [child] = await this.#sandbox.fork({ count: 1 });
      if (!child || child instanceof Error) throw child ?? new Error("there is no fork");
      const copy = await Sandbox.connect(child.sandboxId, connectionTo(this.#daemon));
      const draw = "lived += 1; random.random()";
      const draws = new Set([(await this.run(draw)).text, (await copy.runCode(draw)).text]);
      const { text } = await copy.runCode("lived");
      await copy.kill();
      return [text, draws.size];
    },
    "with a traffic token": async () => {
      await using own = await JavaScriptClient.create(this.#daemon, { network: { allowPublicTraffic: false } });
      const context = await own.sandbox.createCodeContext({ cwd: "/root" });
      await own.run("x = 1", { context });
      const { text } = await own.run("x", { context });
      await own.sandbox.restartCodeContext(context);
      const { error } = await own.run("x", { context });
      await own.sandbox.removeCodeContext(context);
      return [text, error?.name, (await own.sandbox.listCodeContexts()).map(({ language }) => language)];
    },
    "derived template": async () => {
      const template = Template().fromTemplate("code-interpreter-v1").runCmd("echo built > /home/user/built");
      await Template.build(template, "derived-javascript", connectionTo(this.#daemon));
      const derived = await Sandbox.create("derived-javascript", { timeoutMs: 900_000, ...connectionTo(this.#daemon) });
      const { text } = await derived.runCode("open('built').read().strip()");
      await derived.kill();
      return text;
    },
    killed: async () => {
      const own = await JavaScriptClient.create(this.#daemon);
      const code = "import time\nprint('on')\ntime.sleep(600)";
      const error = await failure(own.run(code, { onStdout: () => void own.sandbox.kill() }));
      return [kindOf(error), error?.message.includes("was killed while the request was in progress")];
    },
  };

  async #callbacks(): Promise<unknown> {
    const lines: [string, boolean][] = [];
    const results: (string | undefined)[] = [];
    const errors: string[] = [];
    const stamps: number[] = [];
    const hear = async ({ line, error, timestamp }: { line: string; error: boolean; timestamp: number }) => {
      await new Promise((resolve) => setTimeout(resolve, 1));
      stamps.push(timestamp);
      lines.push([line, error]);
    };
    const onError = async ({ name }: { name: string }) => void errors.push(name);
    const code = "import sys\nprint('hello')\nsys.stdout.flush()\nprint('oops', file=sys.stderr)\n1";
    await this.run(code, {
      onStdout: hear,
      onStderr: hear,
      onResult: async ({ text }: Result) => void results.push(text),
      onError,
    });
    await this.run("unknown", { onError });
    const ofStream = [false, true].map((isError) => lines.filter(([, error]) => error === isError).length);
    const counts = [...ofStream, results.length, errors.length];
    return [lines, results[0], errors[0], counts, stamps.every((stamp) => stamp > 0)];
  }

  async #withContext<T>(use: (context: Awaited<ReturnType<Sandbox["createCodeContext"]>>) => Promise<T>): Promise<T> {
    const context = await this.#sandbox.createCodeContext({ language: "js", cwd: "/root" });
    try {
      return await use(context);
    } finally {
      await this.#sandbox.removeCodeContext(context);
    }
  }
}
