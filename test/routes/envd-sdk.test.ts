/** The official SDKs, both generations, against the data plane over the real guest agent. */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import * as current from "e2b";
import * as v1Routes from "e2b-v1-routes";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { type StubControlPlane, serveStubControlPlane } from "../support/fakes/stub-control-plane.ts";
import { type LocalSandbox, startLocalSandbox } from "../support/guest/local-session.ts";

type Sdk = typeof current;

const apiKey = `e2b_${"0".repeat(40)}`;

describe.each([
  ["e2b 2.51", current],
  ["e2b 2.45", v1Routes as unknown as Sdk],
])("%s", (_name, sdk) => {
  let local: LocalSandbox;
  let control: StubControlPlane;
  let sandbox: current.Sandbox;
  const inFolder = (...names: string[]) => join(local.folder, ...names);

  beforeAll(async () => {
    local = await startLocalSandbox();
    control = await serveStubControlPlane(local.session);
    const options = { apiKey, apiUrl: control.url, sandboxUrl: local.plane.url };
    sandbox = await sdk.Sandbox.connect(local.session.sandboxId, options);
  });

  afterAll(async () => {
    await local[Symbol.asyncDispose]();
    await control[Symbol.asyncDispose]();
    expect(local.plane.logged).toEqual([]);
  });

  describe("commands", () => {
    test("run with streamed output and an exit code", async () => {
      const seen: string[] = [];
      const result = await sandbox.commands.run("echo hi; echo err >&2", {
        onStdout: (data) => void seen.push(`out ${data}`),
        onStderr: (data) => void seen.push(`err ${data}`),
      });
      expect(result).toMatchObject({ exitCode: 0, stdout: "hi\n", stderr: "err\n" });
      expect(seen.sort()).toEqual(["err err\n", "out hi\n"]);
    });

    test("fail with the code, and by signal", async () => {
      await expect(sandbox.commands.run("echo no >&2; exit 42")).rejects.toMatchObject({
        name: "CommandExitError",
        exitCode: 42,
        stderr: "no\n",
      });
      await expect(sandbox.commands.run("kill -9 $$")).rejects.toMatchObject({ exitCode: -1 });
    });

    test("get environment, folder and user", async () => {
      const result = await sandbox.commands.run("echo $A; pwd; id -un", {
        envs: { A: "value" },
        cwd: local.folder,
        user: "root",
      });
      expect(result.stdout).toBe(`value\n${local.folder}\nroot\n`);
    });

    test("with a folder or a user that is not there are the caller's mistake", async () => {
      await expect(sandbox.commands.run("true", { cwd: "/not/there" })).rejects.toMatchObject({
        name: "InvalidArgumentError",
        message: expect.stringContaining("cwd '/not/there' does not exist"),
      });
      await expect(sandbox.commands.run("true", { user: "nobody-here" })).rejects.toMatchObject({
        name: "AuthenticationError",
        message: expect.stringContaining("invalid username: 'nobody-here'"),
      });
    });

    test("in the background: list, connect, input, end of input", async () => {
      const handle = await sandbox.commands.run("cat; echo done", { background: true, stdin: true });
      const listed = await sandbox.commands.list();
      expect(listed.find(({ pid }) => pid === handle.pid)).toMatchObject({
        cmd: "/bin/bash",
        args: ["-l", "-c", "cat; echo done"],
      });
      const joined = await sandbox.commands.connect(handle.pid);
      await sandbox.commands.sendStdin(handle.pid, "typed\n");
      await sandbox.commands.closeStdin(handle.pid);
      expect((await handle.wait()).stdout).toBe("typed\ndone\n");
      expect((await joined.wait()).stdout).toContain("done\n");
      expect((await sandbox.commands.list()).map(({ pid }) => pid)).not.toContain(handle.pid);
    });

    test("outlive the client that leaves, and can be killed", async () => {
      const handle = await sandbox.commands.run("exec sleep 60", { background: true });
      await handle.disconnect();
      expect((await sandbox.commands.list()).map(({ pid }) => pid)).toContain(handle.pid);
      expect(await sandbox.commands.kill(handle.pid)).toBe(true);
      await expect.poll(() => sandbox.commands.kill(handle.pid)).toBe(false);
      const late = await sandbox.commands.connect(handle.pid);
      await expect(late.wait()).rejects.toMatchObject({ exitCode: -1, error: "signal: killed" });
      await expect(sandbox.commands.connect(2 ** 22 + 1)).rejects.toMatchObject({ name: "NotFoundError" });
    });

    test("end at their time-out", async () => {
      await expect(sandbox.commands.run("echo $$; exec sleep 60", { timeoutMs: 500 })).rejects.toMatchObject({
        name: "TimeoutError",
      });
      await expect.poll(async () => (await sandbox.commands.list()).length).toBe(0);
    });

    test("print a lot, binary-safe", async () => {
      const result = await sandbox.commands.run("seq 1 200000");
      expect(result.stdout.length).toBe(1_288_895);
      expect(result.stdout.endsWith("\n200000\n")).toBe(true);
    });

    test("twenty at once", async () => {
      const results = await Promise.all(
        Array.from({ length: 20 }, (_, index) => sandbox.commands.run(`echo ${index}`)),
      );
      expect(results.map(({ stdout }) => Number(stdout))).toEqual(Array.from({ length: 20 }, (_, index) => index));
    });
  });

  test("a terminal takes keys and a new size", async () => {
    let screen = "";
    const terminal = await sandbox.pty.create({
      cols: 80,
      rows: 24,
      onData: (data) => {
        screen += Buffer.from(data).toString();
      },
    });
    await sandbox.pty.resize(terminal.pid, { cols: 101, rows: 31 });
    await sandbox.pty.sendInput(terminal.pid, Buffer.from("stty size; exit\n"));
    await terminal.wait();
    expect(screen).toContain("31 101");
  });

  describe("files", () => {
    test("write, read, in every form", async () => {
      const path = inFolder("a.txt");
      expect(await sandbox.files.write(path, "x")).toMatchObject({ path, name: "a.txt", type: "file" });
      expect(await sandbox.files.read(path)).toBe("x");
      await sandbox.files.write(path, "");
      expect(await sandbox.files.read(path)).toBe("");
      const bytes = Uint8Array.from({ length: 100_000 }, (_, index) => index % 256);
      await sandbox.files.write(inFolder("bin"), bytes.buffer);
      expect(Buffer.from(await sandbox.files.read(inFolder("bin"), { format: "bytes" }))).toEqual(Buffer.from(bytes));
      const written = await sandbox.files.write([
        { path: inFolder("m", "1"), data: "one" },
        { path: inFolder("m", "grüße"), data: "two" },
      ]);
      expect(written.map(({ path: where }) => where)).toEqual([inFolder("m", "1"), inFolder("m", "grüße")]);
      expect(await readFile(inFolder("m", "grüße"), "utf8")).toBe("two");
    });

    test("list, info, exists, rename, remove", async () => {
      await mkdir(inFolder("tree", "sub"), { recursive: true });
      await writeFile(inFolder("tree", "b"), "bb", { mode: 0o640 });
      await writeFile(inFolder("tree", "sub", "c"), "");
      const names = async (depth: number) =>
        (await sandbox.files.list(inFolder("tree"), { depth })).map(({ path }) => path.slice(local.folder.length));
      expect(await names(1)).toEqual(["/tree/b", "/tree/sub"]);
      expect(await names(2)).toEqual(["/tree/b", "/tree/sub", "/tree/sub/c"]);
      expect(await sandbox.files.getInfo(inFolder("tree", "b"))).toMatchObject({
        name: "b",
        type: "file",
        size: 2,
        mode: 0o640,
        permissions: "-rw-r-----",
        owner: "root",
        group: "root",
      });
      expect(await sandbox.files.makeDir(inFolder("tree", "new"))).toBe(true);
      expect(await sandbox.files.makeDir(inFolder("tree", "new"))).toBe(false);
      const moved = await sandbox.files.rename(inFolder("tree", "b"), inFolder("other", "d"));
      expect(moved.path).toBe(inFolder("other", "d"));
      expect(await sandbox.files.exists(inFolder("tree", "b"))).toBe(false);
      await sandbox.files.remove(inFolder("tree"));
      expect(await sandbox.files.exists(inFolder("tree"))).toBe(false);
    });

    test("a missing file has its own error", async () => {
      const missing = { name: sdk === current ? "FileNotFoundError" : expect.any(String) };
      await expect(sandbox.files.read(inFolder("no"))).rejects.toMatchObject(missing);
      await expect(sandbox.files.list(inFolder("no"))).rejects.toMatchObject(missing);
      await expect(sandbox.files.rename(inFolder("no"), inFolder("x"))).rejects.toMatchObject(missing);
      await writeFile(inFolder("plain"), "");
      await expect(sandbox.files.list(inFolder("plain"))).rejects.toMatchObject({ name: "InvalidArgumentError" });
      await expect(sandbox.files.makeDir(inFolder("plain"))).rejects.toMatchObject({ name: "InvalidArgumentError" });
    });

    test("watching sees every event, also in folders made later", async () => {
      await mkdir(inFolder("watched"));
      const events: string[] = [];
      const handle = await sandbox.files.watchDir(
        inFolder("watched"),
        (event) => void events.push(`${event.type} ${event.name}`),
        { recursive: true },
      );
      await writeFile(inFolder("watched", "new"), "x");
      await expect.poll(() => events).toContain("write new");
      expect(events[0]).toBe("create new");
      await mkdir(inFolder("watched", "sub"));
      await expect.poll(() => events).toContain("create sub");
      await writeFile(inFolder("watched", "sub", "late"), "x");
      await expect.poll(() => events).toContain("create sub/late");
      await handle.stop();
    });

    test("watching nothing, or a file, fails", async () => {
      await expect(sandbox.files.watchDir(inFolder("no"), () => {})).rejects.toThrow("path not found");
      await writeFile(inFolder("plain"), "");
      await expect(sandbox.files.watchDir(inFolder("plain"), () => {})).rejects.toThrow("path is not a directory");
    });
  });

  test("a signed URL opens without the SDK", async () => {
    await sandbox.files.write(inFolder("shared"), "for all");
    const url = await sandbox.downloadUrl(inFolder("shared"), { useSignatureExpiration: 60 });
    expect(await (await fetch(url)).text()).toBe("for all");
  });

  test("it runs until it is killed, in the middle of a command", async () => {
    expect(await sandbox.isRunning()).toBe(true);
    const running = sandbox.commands.run("echo started; exec sleep 60", {
      onStdout: () => local.session.kill(new DomainError("not_found", "the sandbox was killed")),
    });
    await expect(running).rejects.toMatchObject({ name: "TimeoutError" });
    expect(await sandbox.isRunning()).toBe(false);
    await expect(sandbox.commands.run("true")).rejects.toThrow("Sandbox is probably not running anymore");
  });
});
