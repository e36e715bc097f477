/** The processes of the code interpreter service in a sandbox, and the cells by which its languages are watched. */
import type { Context, Sandbox } from "@e2b/code-interpreter";
import { variant } from "./template.ts";

export interface GuestProcess {
  readonly pid: number;
  readonly parent: number;
  readonly command: string;
}

export async function processesIn(sandbox: Sandbox): Promise<readonly GuestProcess[]> {
  const { stdout } = await sandbox.commands.run("ps -eo pid=,ppid=,stat=,args=", { user: "root" });
  return stdout.split("\n").flatMap((line) => {
    const [, pid, parent, state, command] = /^\s*(\d+)\s+(\d+)\s+(\S+)\s+(.*)$/.exec(line) ?? [];
    return command === undefined || state?.startsWith("Z")
      ? []
      : [{ pid: Number(pid), parent: Number(parent), command }];
  });
}

/** What a language's cells do: each prints one line. */
export interface Language {
  /** The kernel's pid; of bash, R and Java that of the program which runs the cells. */
  readonly pid: string;
  readonly keep: string;
  /** Prints `kept`, or `lost` in a kernel that never kept anything. */
  readonly read: string;
  /** Prints `on`, waits for the file {@link gate} and prints `through`. */
  readonly wait: string;
}

export const gate = "/home/user/gate";

export type LanguageName = "python" | "javascript" | "bash" | "r" | "java";

const all: Readonly<Record<LanguageName, Language>> = {
  python: {
    pid: "import os; print(os.getpid())",
    keep: "state = 'kept'; print('-')",
    read: "print(globals().get('state', 'lost'))",
    wait: `import os, time\nprint('on', flush=True)\nwhile not os.path.exists('${gate}'): time.sleep(0.05)\nprint('through')`,
  },
  javascript: {
    pid: "console.log(process.pid)",
    keep: "globalThis.state = 'kept'; console.log('-')",
    read: "console.log(globalThis.state ?? 'lost')",
    wait: `console.log('on')\nwhile (!require('fs').existsSync('${gate}')) await new Promise((go) => setTimeout(go, 50))\nconsole.log('through')`,
  },
  bash: {
    pid: "echo $$",
    keep: "state=kept; echo -",
    read: "[ -v state ] && echo kept || echo lost",
    wait: `echo on; until [ -e ${gate} ]; do sleep 0.05; done; echo through`,
  },
  r: {
    pid: "cat(Sys.getpid())",
    keep: "state <- 'kept'; cat('-')",
    read: "cat(if (exists('state')) state else 'lost')",
    wait: `cat('on\\n'); flush(stdout()); while (!file.exists('${gate}')) Sys.sleep(0.05); cat('through')`,
  },
  java: {
    pid: "System.out.println(ProcessHandle.current().pid());",
    keep: 'System.setProperty("state", "kept"); System.out.println("-");',
    read: 'System.out.println(System.getProperty("state", "lost"));',
    wait: `System.out.println("on"); while (!new java.io.File("${gate}").exists()) Thread.sleep(50); System.out.println("through");`,
  },
};
/** Of the variant that is tested. */
const languages = Object.fromEntries(
  Object.entries(all).filter(([name]) => variant === "full" || !["r", "java"].includes(name)),
) as Partial<Record<LanguageName, Language>>;
export const languageNames = Object.keys(languages) as readonly LanguageName[];

/** No cell of these tests takes as long; a client that is still waiting then would wait for ever. */
const patienceMs = 60_000;

/**
 * Runs a cell and says what its client saw: what the cell printed, the name of its error, `broken` for a connection that
 * broke, or `waits for ever`.
 */
export async function outcomeOf(
  sandbox: Sandbox,
  code: string,
  context: Context,
  onStdout?: (line: string) => void,
): Promise<string> {
  try {
    const { error, logs } = await sandbox.runCode(code, {
      context,
      timeoutMs: patienceMs,
      requestTimeoutMs: patienceMs,
      onStdout: ({ line }) => onStdout?.(line),
    });
    return error ? error.name : logs.stdout.join("").trim();
  } catch (error) {
    if ((error as Error).message.includes("timed out")) return "waits for ever";
    return (error as Error).constructor.name === "NotFoundError" ? "no such context" : "broken";
  }
}

/** One context of each language, each with a state of its own. */
export class Contexts {
  readonly #sandbox: Sandbox;
  readonly #byLanguage: ReadonlyMap<LanguageName, Context>;

  private constructor(sandbox: Sandbox, byLanguage: ReadonlyMap<LanguageName, Context>) {
    this.#sandbox = sandbox;
    this.#byLanguage = byLanguage;
  }

  static async create(sandbox: Sandbox): Promise<Contexts> {
    const byLanguage = new Map<LanguageName, Context>();
    for (const language of languageNames) byLanguage.set(language, await sandbox.createCodeContext({ language }));
    const contexts = new Contexts(sandbox, byLanguage);
    await contexts.each("keep");
    return contexts;
  }

  /** Runs the same in every context at once, and gives what each client saw. */
  async each(what: keyof Language): Promise<Record<string, string>> {
    const outcomes = languageNames.map(async (language) => [language, await this.run(language, what)] as const);
    return Object.fromEntries(await Promise.all(outcomes));
  }

  run(language: LanguageName, what: keyof Language): Promise<string> {
    return outcomeOf(this.#sandbox, languages[language]?.[what] ?? "", this.#contextOf(language));
  }

  /** Begins the waiting cell in every context, and returns when each has begun. */
  async beginWaiting(): Promise<() => Promise<Record<string, string>>> {
    const begun: Promise<void>[] = [];
    const outcomes = languageNames.map(async (language) => {
      let begin = () => {};
      begun.push(new Promise((resolve) => (begin = resolve)));
      const code = languages[language]?.wait ?? "";
      const outcome = await outcomeOf(this.#sandbox, code, this.#contextOf(language), begin);
      return [language, outcome.replace(/^on\n+/, "")] as const;
    });
    await Promise.all(begun);
    return async () => Object.fromEntries(await Promise.all(outcomes));
  }

  /** Removes the contexts that are still there. */
  async remove(): Promise<void> {
    const there = new Set((await this.#sandbox.listCodeContexts()).map(({ id }) => id));
    for (const context of this.#byLanguage.values()) {
      if (there.has(context.id)) await this.#sandbox.removeCodeContext(context);
    }
  }

  #contextOf(language: LanguageName): Context {
    const context = this.#byLanguage.get(language);
    if (context === undefined) throw new Error(`there is no context of ${language}`);
    return context;
  }
}
