/** Commands of the unmodified SDKs on real machines. */
import { NotFoundError, TimeoutError } from "e2b";
import { describe, expect, test } from "vitest";
import { createSandbox, generations, skipReason } from "../support/clients/sdk.ts";

describe.skipIf(skipReason)("commands", () => {
  describe.each(generations)("%s", (_, sdk) => {
    test("stdout and stderr arrive as they happen, environment and exit code are right", async () => {
      await using made = await createSandbox({ envs: { A: "1" } }, sdk);
      const seen: string[] = [];
      const result = await made.sandbox.commands.run('echo "hi $A $B"; echo err >&2; exit 0', {
        envs: { B: "2" },
        onStdout: (text) => void seen.push(`out:${text}`),
        onStderr: (text) => void seen.push(`err:${text}`),
      });
      expect(result).toMatchObject({ exitCode: 0, stdout: "hi 1 2\n", stderr: "err\n" });
      expect(seen).toEqual(expect.arrayContaining(["out:hi 1 2\n", "err:err\n"]));
    });

    test("a command that fails is an error with its output", async () => {
      await using made = await createSandbox({}, sdk);
      const failure = await made.sandbox.commands.run("echo out; echo err >&2; exit 7").catch((error) => error);
      expect(failure).toMatchObject({ name: "CommandExitError", exitCode: 7, stdout: "out\n", stderr: "err\n" });
    });
  });

  test("output is streamed before the command ends", async () => {
    await using made = await createSandbox();
    let sawFirst: () => void = () => {};
    const first = new Promise<void>((resolve) => {
      sawFirst = resolve;
    });
    const running = made.sandbox.commands.run("echo first; read line; echo got $line", {
      stdin: true,
      background: true,
      onStdout: (text) => {
        if (text.includes("first")) sawFirst();
      },
    });
    const handle = await running;
    await first;
    await made.sandbox.commands.sendStdin(handle.pid, "hello\n");
    expect((await handle.wait()).stdout).toBe("first\ngot hello\n");
  });

  test("closing stdin ends a reader", async () => {
    await using made = await createSandbox();
    const handle = await made.sandbox.commands.run("cat", { stdin: true, background: true });
    await handle.sendStdin("abc");
    await handle.closeStdin();
    expect(await handle.wait()).toMatchObject({ stdout: "abc", exitCode: 0 });
  });

  test("background commands are listed, connected to from elsewhere, and killed", async () => {
    await using made = await createSandbox();
    const { commands } = made.sandbox;
    const handle = await commands.run("echo one; sleep 600", { background: true, envs: { MARK: "x" } });
    const listed = await commands.list();
    expect(listed).toHaveLength(1);
    expect(listed[0]).toMatchObject({ pid: handle.pid, cmd: "/bin/bash", envs: { MARK: "x" } });
    const again = await commands.connect(handle.pid);
    expect(await commands.kill(handle.pid)).toBe(true);
    const ends = await Promise.all([handle, again].map((each) => each.wait().catch((error: unknown) => error)));
    expect(ends).toEqual([expect.objectContaining({ exitCode: -1 }), expect.objectContaining({ exitCode: -1 })]);
    expect(await commands.list()).toEqual([]);
    expect(await commands.kill(handle.pid)).toBe(false);
    await expect(commands.connect(handle.pid + 1)).rejects.toThrow(NotFoundError);
  });

  test("a command outlives the client that left it", async () => {
    await using made = await createSandbox();
    const handle = await made.sandbox.commands.run("sleep 2; echo done > /tmp/done", { background: true });
    await handle.disconnect();
    await expect.poll(() => made.sandbox.files.exists("/tmp/done")).toBe(true);
  });

  test("a time-out kills the command", async () => {
    await using made = await createSandbox();
    await expect(made.sandbox.commands.run("sleep 600", { timeoutMs: 1_000 })).rejects.toThrow(TimeoutError);
    await expect.poll(() => made.sandbox.commands.list()).toEqual([]);
  });

  test("a command has its user and its working directory, and a wrong one of either is refused", async () => {
    await using made = await createSandbox();
    const { commands } = made.sandbox;
    expect((await commands.run("id -un; pwd")).stdout).toBe("user\n/home/user\n");
    expect((await commands.run("id -un; pwd; id -G", { user: "root" })).stdout).toBe("root\n/root\n0\n");
    expect((await commands.run("pwd", { cwd: "/usr/share" })).stdout).toBe("/usr/share\n");
    expect((await commands.run("sudo -n id -u")).stdout).toBe("0\n");
    await expect(commands.run("true", { cwd: "/nowhere" })).rejects.toThrow("cwd '/nowhere' does not exist");
    await expect(commands.run("true", { user: "nobody-here" as "user" })).rejects.toThrow("invalid username");
  });

  test("a process sees only the environment it was given", async () => {
    await using made = await createSandbox({ envs: { GLOBAL: "g" } });
    const { stdout } = await made.sandbox.commands.run("env", { envs: { LOCAL: "l" } });
    const names = stdout.split("\n").map((line) => line.split("=")[0]);
    expect(names).toEqual(
      expect.arrayContaining(["GLOBAL", "LOCAL", "HOME", "USER", "LOGNAME", "PATH", "E2B_SANDBOX"]),
    );
    expect(stdout).toContain(`E2B_SANDBOX_ID=${made.sandbox.sandboxId}`);
    expect(stdout).toContain("GLOBAL=g");
  });

  test("large output arrives whole", async () => {
    await using made = await createSandbox();
    const { stdout } = await made.sandbox.commands.run("seq 1 200000");
    expect(stdout.length).toBe(1_288_895);
    expect(stdout.endsWith("\n199999\n200000\n")).toBe(true);
  });

  test("100 commands run one after the other, and 20 at once", async () => {
    await using made = await createSandbox();
    const { commands } = made.sandbox;
    for (let n = 0; n < 100; n++) expect((await commands.run(`echo ${n}`)).stdout).toBe(`${n}\n`);
    const together = await Promise.all(Array.from({ length: 20 }, (_, n) => commands.run(`sleep 0.1; echo ${n}`)));
    expect(together.map(({ stdout }) => stdout)).toEqual(Array.from({ length: 20 }, (_, n) => `${n}\n`));
    expect(await commands.list()).toEqual([]);
  });

  test("killing the sandbox ends a running command with the reason", async () => {
    const made = await createSandbox();
    const running = made.sandbox.commands.run("sleep 600", { timeoutMs: 0 }).catch((error: Error) => error);
    await expect.poll(() => made.sandbox.commands.list().then((list) => list.length)).toBe(1);
    await made.sandbox.kill();
    const error = await running;
    expect(error).toBeInstanceOf(TimeoutError);
    expect(String(error)).toMatch(/sandbox was killed or reached its end of life/);
  });
});
