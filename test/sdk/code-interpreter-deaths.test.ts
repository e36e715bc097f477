/** Every process of the code interpreter service is killed, at rest and in an execution, in a sandbox's own guest. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sharedDaemon } from "../support/clients/sdk.ts";
import {
  Contexts,
  type GuestProcess,
  gate,
  type LanguageName,
  languageNames,
  outcomeOf,
  processesIn,
} from "../support/code-interpreter/guest-processes.ts";
import { JavaScriptClient } from "../support/code-interpreter/javascript-steps.ts";
import { makeTemplate, notRun } from "../support/code-interpreter/template.ts";
import { titleOf } from "../support/skipped-title.ts";

/** As the contract of the service says. */
const backWithinMs = 5_000;

interface Victim {
  readonly name: string;
  readonly find: (processes: readonly GuestProcess[], contexts: Contexts) => Promise<number | undefined>;
  /** Whose contexts lose their state, or which contexts are gone. */
  readonly costs: "every context" | "nothing" | LanguageName;
}

const pidIn = async (contexts: Contexts, language: LanguageName) => Number(await contexts.run(language, "pid"));
const isFront = ({ command }: GuestProcess) => /python3 \S*\/service\.py/.test(command);
const isForkServer = ({ command }: GuestProcess) => /python3 \S*\/fork_server\.py/.test(command);
/** Kernels of Python, bash, R and Java have the fork server's command line, and it is their parent. */
const forkServerOf = (processes: readonly GuestProcess[]) => {
  const all = processes.filter(isForkServer);
  return all.find(({ parent }) => !all.some(({ pid }) => pid === parent));
};

const kernel = (language: LanguageName): Victim => ({
  name: `the kernel of ${language}`,
  find: (_, contexts) => pidIn(contexts, language),
  costs: language,
});
/** The process that hands cells to the program of a language. */
const relay = (language: LanguageName): Victim => ({
  name: `the relay of ${language}`,
  find: async (processes, contexts) => {
    const program = await pidIn(contexts, language);
    return processes.find(({ pid }) => pid === program)?.parent;
  },
  costs: language,
});
const spare: Victim = {
  name: "a spare kernel",
  find: async (processes, contexts) => {
    const programs = await Promise.all(languageNames.map((language) => pidIn(contexts, language)));
    const relays = processes.flatMap(({ pid, parent }) => (programs.includes(pid) ? [parent] : []));
    const server = forkServerOf(processes)?.pid;
    const unused = processes.filter(({ pid, parent }) => {
      return parent === server && !programs.includes(pid) && !relays.includes(pid);
    });
    // The first contexts, which no test uses, have older ones.
    return unused.at(-1)?.pid;
  },
  costs: "nothing",
};
const victims: readonly Victim[] = [
  { name: "the front", find: async (processes) => processes.find(isFront)?.pid, costs: "every context" },
  { name: "the fork server", find: async (processes) => forkServerOf(processes)?.pid, costs: "nothing" },
  ...languageNames.map(kernel),
  ...(["bash", "r", "java"] as const).filter((language) => languageNames.includes(language)).map(relay),
  spare,
];

describe.skipIf(notRun)(titleOf("deaths in the code interpreter", notRun), () => {
  let client: JavaScriptClient;
  let contexts: Contexts;

  beforeAll(async () => {
    await makeTemplate();
    client = await JavaScriptClient.create(sharedDaemon());
  }, 900_000);
  afterAll(() => client?.[Symbol.asyncDispose]());

  const asRoot = (command: string) => client.sandbox.commands.run(command, { user: "root" });
  const everyLanguage = (outcome: (language: LanguageName) => string) =>
    Object.fromEntries(languageNames.map((language) => [language, outcome(language)]));

  /** The pid has to be asked for before the contexts are busy. */
  async function find(victim: Victim): Promise<{ readonly pid: number; readonly processes: readonly GuestProcess[] }> {
    const processes = await processesIn(client.sandbox);
    const pid = await victim.find(processes, contexts);
    const list = () => processes.map(({ command }) => command).join("\n");
    if (!pid) throw new Error(`there is no process that is ${victim.name}:\n${list()}`);
    return { pid, processes };
  }

  /** A new context runs a cell. */
  const isBack = async () => {
    try {
      const context = await client.sandbox.createCodeContext();
      const printed = await outcomeOf(client.sandbox, "print('back')", context);
      await client.sandbox.removeCodeContext(context);
      return printed;
    } catch (error) {
      return String(error);
    }
  };

  describe.each(victims)("$name", (victim) => {
    const { costs } = victim;

    test("killed at rest", async () => {
      contexts = await Contexts.create(client.sandbox);
      const { pid } = await find(victim);
      await asRoot(`kill -9 ${pid}`);
      await expect.poll(isBack, { timeout: backWithinMs }).toBe("back");
      const expected = (language: LanguageName) => {
        if (costs === "every context") return "no such context";
        return costs === language ? "lost" : "kept";
      };
      expect(await contexts.each("read")).toEqual(everyLanguage(expected));
      await contexts.remove();
    });

    test("killed in an execution", async () => {
      await asRoot(`rm -f ${gate}`);
      contexts = await Contexts.create(client.sandbox);
      const { pid, processes } = await find(victim);
      const ended = await contexts.beginWaiting();
      await asRoot(`kill -9 ${pid}`);
      await expect.poll(isBack, { timeout: backWithinMs }).toBe("back");
      await asRoot(`touch ${gate}`);
      const expected = (language: LanguageName) => {
        if (costs === "every context") return "broken";
        return costs === language ? "ContextRestarting" : "through";
      };
      expect(await ended()).toEqual(everyLanguage(expected));
      if (costs === "every context") {
        const left = await processesIn(client.sandbox);
        const kernels = processes.filter(({ parent }) => parent === forkServerOf(processes)?.pid);
        expect(left.filter(({ pid: one }) => kernels.some(({ pid: other }) => other === one))).toEqual([]);
      }
      await contexts.remove();
    });
  });

  test("after all of that, the first contexts are there, and clients get their results", async () => {
    expect((await client.sandbox.listCodeContexts()).map(({ language }) => language)).toEqual(["python", "javascript"]);
    expect((await client.run("1 + 1")).text).toBe("2");
  });
});
