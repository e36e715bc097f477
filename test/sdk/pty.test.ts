/** Terminals of the unmodified SDKs on real machines. */
import { describe, expect, test } from "vitest";
import { createSandbox, generations, type Sandbox, skipReason } from "../support/clients/sdk.ts";

/** A screen: the text that a terminal has shown so far. */
function screen() {
  const decoder = new TextDecoder();
  const seen = { text: "" };
  return {
    onData: (bytes: Uint8Array) => {
      seen.text += decoder.decode(bytes, { stream: true });
    },
    shows: (what: string | RegExp) => expect.poll(() => seen.text).toMatch(what),
    get text() {
      return seen.text;
    },
  };
}

const type = (sandbox: Sandbox, pid: number, text: string) =>
  sandbox.pty.sendInput(pid, new TextEncoder().encode(text));

describe.skipIf(skipReason)("terminals", () => {
  describe.each(generations)("%s", (_, sdk) => {
    test("a shell in a terminal of the size asked for answers what is typed, and its exit code arrives", async () => {
      await using made = await createSandbox({ envs: { A: "1" } }, sdk);
      const shown = screen();
      const terminal = await made.sandbox.pty.create({ cols: 91, rows: 31, onData: shown.onData, envs: { B: "2" } });
      await type(made.sandbox, terminal.pid, "echo $(stty size) $A-$B $TERM; tty; pwd\n");
      await shown.shows(/31 91 1-2 xterm-256color\r\n/);
      await shown.shows(/\/dev\/pts\/\d+\r\n\/home\/user\r\n/);
      await type(made.sandbox, terminal.pid, "exit 3\n");
      expect(await terminal.wait().catch((error) => error)).toMatchObject({ exitCode: 3 });
    });

    test("a terminal that is resized tells the program in it", async () => {
      await using made = await createSandbox({}, sdk);
      const shown = screen();
      const terminal = await made.sandbox.pty.create({ cols: 80, rows: 24, onData: shown.onData });
      await type(made.sandbox, terminal.pid, "trap 'echo now $(stty size)' WINCH; echo re''ady\n");
      await shown.shows("ready\r\n");
      await made.sandbox.pty.resize(terminal.pid, { cols: 132, rows: 50 });
      await type(made.sandbox, terminal.pid, "\n");
      await shown.shows("now 50 132");
      expect(await terminal.kill()).toBe(true);
    });
  });

  test("Ctrl-C interrupts the command in a terminal and not its shell", async () => {
    await using made = await createSandbox();
    const shown = screen();
    const terminal = await made.sandbox.pty.create({ cols: 80, rows: 24, onData: shown.onData });
    await type(made.sandbox, terminal.pid, "echo st''arted; sleep 600\n");
    await shown.shows("started\r\n");
    await type(made.sandbox, terminal.pid, "\x03");
    await type(made.sandbox, terminal.pid, "echo status=$?\n");
    await shown.shows("status=130");
  });

  test("a second client connects to a terminal, sees what comes, and types into it", async () => {
    await using made = await createSandbox();
    const [first, second] = [screen(), screen()];
    const terminal = await made.sandbox.pty.create({ cols: 80, rows: 24, onData: first.onData });
    await type(made.sandbox, terminal.pid, "echo re''ady\n");
    await first.shows("ready\r\n");
    const again = await made.sandbox.pty.connect(terminal.pid, { onData: second.onData });
    await type(made.sandbox, again.pid, "echo bo''th\n");
    await Promise.all([first.shows("both\r\n"), second.shows("both\r\n")]);
    await terminal.disconnect();
    await type(made.sandbox, again.pid, "echo al''one\n");
    await second.shows("alone\r\n");
    expect(first.text).not.toContain("alone\r\n");
  });

  test("a killed terminal ends for every client with all that runs in it, and is not found again", async () => {
    await using made = await createSandbox();
    const shown = screen();
    const { pty, commands } = made.sandbox;
    const terminal = await pty.create({ cols: 80, rows: 24, onData: shown.onData });
    await type(made.sandbox, terminal.pid, "sleep 601\n");
    await expect.poll(() => countOf(made.sandbox, "sleep 60[1]")).toBe(1);
    expect(await pty.kill(terminal.pid)).toBe(true);
    expect(await terminal.wait().catch((error) => error)).toMatchObject({ exitCode: -1 });
    expect(await commands.list()).toEqual([]);
    expect(await pty.kill(terminal.pid)).toBe(false);
    await expect(pty.resize(terminal.pid, { cols: 1, rows: 1 })).rejects.toThrow(/not found/);
    await expect(type(made.sandbox, terminal.pid, "x")).rejects.toThrow(/not found/);
    await expect.poll(() => countOf(made.sandbox, "sleep 60[1]")).toBe(0);
  });

  test("large output of a terminal arrives whole", async () => {
    await using made = await createSandbox();
    const shown = screen();
    const terminal = await made.sandbox.pty.create({ cols: 80, rows: 24, onData: shown.onData });
    await type(made.sandbox, terminal.pid, "stty -onlcr; seq 1 50000; exit\n");
    expect(await terminal.wait()).toMatchObject({ exitCode: 0 });
    const numbers = Array.from({ length: 50_000 }, (_, n) => `${n + 1}\n`).join("");
    expect(shown.text.includes(numbers)).toBe(true);
  });
});

async function countOf(sandbox: Sandbox, pattern: string): Promise<number> {
  return Number((await sandbox.commands.run(`pgrep -fc '${pattern}' || true`)).stdout);
}
