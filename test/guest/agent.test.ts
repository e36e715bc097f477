/** Tests of the client with the real agent, which runs as a process of this machine: every operation, end to end. */
import { spawn } from "node:child_process";
import { on, once } from "node:events";
import { chmod, lstat, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import net from "node:net";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { AttachedProcess, GuestAgent } from "../../src/guest/agent.ts";
import { connectGuestAgent } from "../../src/guest/connect.ts";
import type { ProcessSpec } from "../../src/types.ts";
import { builtProgram, type LocalAgent, startLocalAgent } from "../support/guest/local-agent.ts";

let local: LocalAgent;
let agent: GuestAgent;
let folder: string;
const user = "root";

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "firkin-agent-"));
  local = await startLocalAgent();
  ({ agent } = local);
});

afterAll(async () => {
  await local?.[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

function shell(script: string, more: Partial<ProcessSpec> = {}): ProcessSpec {
  return { command: "/bin/sh", args: ["-c", script], envs: {}, user, stdin: false, ...more };
}

async function collect(process: AttachedProcess) {
  const text = { stdout: "", stderr: "", terminal: "" };
  for await (const { channel, bytes } of process.output) text[channel] += Buffer.from(bytes).toString("latin1");
  return { ...text, ...(await process.end) };
}

async function run(script: string, more: Partial<ProcessSpec> = {}) {
  return collect(await agent.exec(shell(script, more)));
}

async function* chunks(...values: (string | Uint8Array)[]): AsyncGenerator<Uint8Array> {
  for (const value of values) yield Buffer.from(value);
}

async function contentOf(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of source) parts.push(part);
  return Buffer.concat(parts);
}

/** Waits until the output of a process holds a text. */
async function outputHolds(output: AsyncIterator<{ bytes: Uint8Array }>, text: string): Promise<void> {
  let seen = "";
  while (!seen.includes(text)) {
    const { value, done } = await output.next();
    if (done) throw new Error(`ended after ${JSON.stringify(seen)}`);
    seen += Buffer.from(value.bytes);
  }
}

const code = (name: string) => expect.objectContaining({ code: name });

test("the agent says who it is and answers", async () => {
  expect(agent.agentVersion).not.toBe("");
  expect(agent.bootId).toBe((await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim());
  await agent.ping();
  await agent.sync();
});

test("a command gives its output, errors and exit code", async () => {
  expect(await run("echo out; echo err >&2; exit 3")).toEqual({
    stdout: "out\n",
    stderr: "err\n",
    terminal: "",
    exitCode: 3,
    exited: true,
  });
});

test("a command sees its arguments, folder, environment and no standard input", async () => {
  const { stdout } = await run('pwd; echo "$A-$HOME"; wc -c; shift; echo "$1"', {
    args: ["-c", 'pwd; echo "$A-$HOME"; wc -c; echo "$2"', "sh", "one", "two words"],
    cwd: folder,
    envs: { A: "b=c" },
  });
  expect(stdout).toBe(`${folder}\nb=c-/root\n0\ntwo words\n`);
});

test("a command line longer than a frame arrives whole", async () => {
  const text = "long ".repeat(20_000);
  expect((await run(`printf %s '${text}'`)).stdout).toBe(text);
});

/** Of two million times "a". */
const md5OfInput = "2a915e52d86d42e58e580f4073120a6b";

test("standard input goes in to its end, with back-pressure", async () => {
  const process = await agent.exec(shell("md5sum", { stdin: true }));
  for (let i = 0; i < 40; i++) await process.write(Buffer.alloc(50_000, 97));
  process.closeStdin();
  expect((await collect(process)).stdout).toBe(`${md5OfInput}  -\n`);
});

test("much output arrives whole, and a process without a reader does not hold up another", async () => {
  const slow = await agent.exec(shell("head -c 3000000 /dev/zero | tr '\\0' x"));
  expect((await run("echo meanwhile")).stdout).toBe("meanwhile\n");
  expect((await collect(slow)).stdout.length).toBe(3_000_000);
});

test("a terminal has a size, is resized and takes keystrokes", async () => {
  const process = await agent.exec(
    shell("stty -echo; stty size; read line; echo got $line; stty size", {
      terminal: { columns: 91, rows: 17 },
      stdin: true,
    }),
  );
  const output = process.output[Symbol.asyncIterator]();
  await outputHolds(output, "17 91\r\n");
  process.resize({ columns: 100, rows: 20 });
  await process.write(Buffer.from("keys\n"));
  await outputHolds(output, "20 100\r\n");
  expect(await process.end).toEqual({ exitCode: 0, exited: true });
});

test("a signal ends a process", async () => {
  const process = await agent.exec(shell("echo up; exec sleep 60"));
  await outputHolds(process.output[Symbol.asyncIterator](), "up");
  await agent.signal(process.pid, 9);
  expect(await process.end).toEqual({ exitCode: -1, exited: false, signal: 9 });
});

test("impossible starts are refused", async () => {
  await expect(run("true", { user: "no-such-user" })).rejects.toThrow(code("unauthenticated"));
  await expect(run("true", { cwd: join(folder, "missing") })).rejects.toThrow(code("invalid_argument"));
  await expect(run("true", { command: "/no/such/program" })).rejects.toThrow(code("invalid_argument"));
  await expect(agent.signal(2 ** 30, 15)).rejects.toThrow(code("not_found"));
  await expect(agent.attach({ tag: "nobody" })).rejects.toThrow(code("not_found"));
});

test("a process is listed, detached from and attached to again", async () => {
  const first = await agent.exec(shell("echo one; read x; echo $x; exit 5", { stdin: true, tag: "job" }));
  await outputHolds(first.output[Symbol.asyncIterator](), "one");
  const listed = (await agent.listProcesses()).find(({ pid }) => pid === first.pid);
  expect(listed).toMatchObject({ command: "/bin/sh", tag: "job", terminal: false });
  expect(listed?.end).toBeUndefined();
  first.detach();
  await expect(first.end).rejects.toThrow(code("cancelled"));

  const second = await agent.attach({ tag: "job" });
  expect(second.pid).toBe(first.pid);
  const third = await agent.attach({ pid: first.pid });
  await expect(second.end).rejects.toThrow(code("cancelled"));
  await third.write(Buffer.from("two\n"));
  expect(await collect(third)).toMatchObject({ stdout: "two\n", exitCode: 5 });
  expect((await agent.listProcesses()).find(({ pid }) => pid === first.pid)?.end).toEqual({
    exitCode: 5,
    exited: true,
  });
});

test("an aborted start leaves no process", async () => {
  const abort = new AbortController();
  const starting = agent.exec(shell("exec sleep 61", { tag: "aborted" }), abort.signal);
  abort.abort();
  await expect(starting).rejects.toThrow(code("cancelled"));
  await expect
    .poll(async () => (await agent.listProcesses()).filter(({ tag, end }) => tag === "aborted" && !end))
    .toEqual([]);
});

test.each([0, 1, 32_768, 100_001, 5_000_000])("a file of %i bytes goes in and comes out", async (size) => {
  const path = join(folder, "sub", `size-${size}`);
  const content = Buffer.alloc(size, "0123456789abcdef\n");
  const written = await agent.write(path, chunks(content.subarray(0, 70_000), content.subarray(70_000)), { user });
  expect(written).toMatchObject({ name: `size-${size}`, kind: "file", path, sizeBytes: size, owner: "root" });
  expect(content.equals(await readFile(path))).toBe(true);
  const { entry, bytes } = await agent.read(path, { user });
  expect(entry).toEqual(written);
  expect(content.equals(await contentOf(bytes))).toBe(true);
});

test("part of a file is read", async () => {
  const path = join(folder, "digits");
  await writeFile(path, "0123456789");
  const read = async (options: object) =>
    (await contentOf((await agent.read(path, { user, ...options })).bytes)).toString();
  expect(await read({ offset: 3, length: 4 })).toBe("3456");
  expect(await read({ offset: 8 })).toBe("89");
  expect(await read({ length: 2 })).toBe("01");
});

test("leaving a read early leaves the link in order", async () => {
  const path = join(folder, "large");
  await writeFile(path, Buffer.alloc(2_000_000));
  for await (const _ of (await agent.read(path, { user })).bytes) break;
  await agent.ping();
});

test("a written file has the mode and attributes of the request", async (context) => {
  const path = join(folder, "with-mode");
  const written = await agent.write(path, chunks("x"), { user, mode: 0o600 });
  expect(written.mode).toBe(0o600);
  try {
    await agent.write(path, chunks("x"), { user, attributes: { a: "1", b: "ü" } });
  } catch (error) {
    context.skip(`no extended attributes here: ${error}`);
  }
  expect((await agent.stat(path, user)).attributes).toEqual({ a: "1", b: "ü" });
  await agent.write(path, chunks("x"), { user, attributes: { c: "3" } });
  expect((await agent.stat(path, user)).attributes).toEqual({ c: "3" });
});

test("entries of every kind tell their kind", async () => {
  const place = join(folder, "kinds");
  await mkdir(join(place, "dir"), { recursive: true });
  await writeFile(join(place, "file ü"), "abc");
  await chmod(join(place, "file ü"), 0o640);
  await symlink("file ü", join(place, "link"));
  await symlink("nowhere", join(place, "broken"));
  const facts = await lstat(join(place, "file ü"), { bigint: true });
  expect(await agent.stat(join(place, "file ü"), user)).toEqual({
    name: "file ü",
    kind: "file",
    path: join(place, "file ü"),
    sizeBytes: 3,
    mode: 0o640,
    owner: "root",
    group: "root",
    modifiedNs: facts.mtimeNs,
    attributes: {},
  });
  expect(await agent.stat(join(place, "dir"), user)).toMatchObject({ kind: "directory" });
  expect(await agent.stat(join(place, "link"), user)).toMatchObject({
    kind: "file",
    sizeBytes: 3,
    linkTarget: join(place, "file ü"),
  });
  expect(await agent.stat(join(place, "broken"), user)).toMatchObject({ kind: "unknown", linkTarget: "nowhere" });
  expect(await agent.stat("/dev/null", user)).toMatchObject({ kind: "other" });
});

test("a folder is listed parents first, sorted by bytes, as deep as the request says", async () => {
  const place = join(folder, "tree");
  await mkdir(join(place, "b", "inner", "deep"), { recursive: true });
  for (const name of ["a", "C", "b/x", "b/inner/y"]) await writeFile(join(place, name), "");
  const list = async (depth: number) => {
    const paths: string[] = [];
    for await (const { path } of agent.listDirectory(place, depth, user)) paths.push(path.slice(place.length + 1));
    return paths;
  };
  expect(await list(1)).toEqual(["C", "a", "b"]);
  expect(await list(2)).toEqual(["C", "a", "b", "b/inner", "b/x"]);
  expect(await list(9)).toEqual(["C", "a", "b", "b/inner", "b/inner/deep", "b/inner/y", "b/x"]);
});

test("a folder that fills several events is listed whole", async () => {
  const place = join(folder, "many");
  await mkdir(place);
  for (let i = 0; i < 1_000; i++) await writeFile(join(place, `file-${String(i).padStart(5, "0")}`), "");
  const names: string[] = [];
  for await (const { name } of agent.listDirectory(place, 1, user)) names.push(name);
  expect(names.length).toBe(1_000);
  expect(names).toEqual([...names].sort());
});

test("folders are made, moved and removed", async () => {
  const place = join(folder, "made", "here");
  expect(await agent.makeDirectory(place, user)).toMatchObject({ kind: "directory", path: place });
  await expect(agent.makeDirectory(place, user)).rejects.toThrow(code("already_exists"));
  const moved = join(folder, "moved", "there");
  expect(await agent.move(place, moved, user)).toMatchObject({ path: moved });
  await agent.remove(join(folder, "moved"), user);
  await agent.remove(join(folder, "moved"), user);
  await expect(agent.stat(moved, user)).rejects.toThrow(
    expect.objectContaining({ code: "not_found", details: expect.objectContaining({ status: "not_found" }) }),
  );
});

test("files are joined in order", async () => {
  const parts = ["one ", "two ", "three"].map((text, i) => ({ path: join(folder, `part-${i}`), text }));
  for (const { path, text } of parts) await agent.write(path, chunks(text), { user });
  const whole = join(folder, "whole");
  expect(
    await agent.compose(
      parts.map(({ path }) => path),
      whole,
      user,
    ),
  ).toMatchObject({ sizeBytes: 13 });
  expect(await readFile(whole, "utf8")).toBe("one two three");
  await expect(agent.stat(join(folder, "part-0"), user)).rejects.toThrow(code("not_found"));
});

test("file errors have the right codes", async () => {
  await writeFile(join(folder, "plain"), "");
  const status = (name: string) => expect.objectContaining({ details: expect.objectContaining({ status: name }) });
  await expect(agent.read(join(folder, "missing"), { user })).rejects.toThrow(status("not_found"));
  await expect(agent.read(folder, { user })).rejects.toThrow(status("is_a_directory"));
  await expect(agent.write(folder, chunks("x"), { user })).rejects.toThrow(status("is_a_directory"));
  await expect(agent.listDirectory(join(folder, "plain"), 1, user)[Symbol.asyncIterator]().next()).rejects.toThrow(
    status("not_a_directory"),
  );
  await expect(agent.remove("/", user)).rejects.toThrow(status("invalid_argument"));
  await expect(agent.stat("~other/x", user)).rejects.toThrow(status("invalid_argument"));
  await expect(agent.stat("/x", "no-such-user")).rejects.toThrow(status("unauthenticated"));
});

test("a watched folder reports its changes", async () => {
  const place = join(folder, "watched");
  await mkdir(place);
  const watch = await agent.watch(place, { user, recursive: true, includeEntry: true });
  await writeFile(join(place, "new"), "content");
  const events = watch.events[Symbol.asyncIterator]();
  const seen: string[] = [];
  while (!seen.includes("write new")) {
    const { value } = await events.next();
    seen.push(`${value?.kind} ${value?.name}`);
    if (value?.entry) expect(value.entry).toMatchObject({ name: "new", path: join(place, "new") });
  }
  expect(seen[0]).toBe("create new");
  const pending = events.next();
  watch.close();
  expect(await pending).toEqual({ done: true, value: undefined });
  await expect(agent.watch(join(folder, "missing"), { user, recursive: false, includeEntry: false })).rejects.toThrow(
    code("not_found"),
  );
});

test("a watch has caught up once the changes before the question have been taken", async () => {
  const place = join(folder, "caught-up");
  await mkdir(place);
  const watch = await agent.watch(place, { user, recursive: false, includeEntry: false });
  const seen: string[] = [];
  const reading = (async () => {
    for await (const { kind, name } of watch.events) seen.push(`${kind} ${name}`);
  })();
  for (let round = 0; round < 20; round++) {
    await writeFile(join(place, `${round}`), "content");
    await Promise.all([watch.caughtUp(), watch.caughtUp()]);
    expect(seen.splice(0)).toEqual([`create ${round}`, `write ${round}`]);
  }
  watch.close();
  await reading;
});

test("a connection to a port carries all bytes both ways, also half-closed", async () => {
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    const parts: Buffer[] = [];
    socket.on("data", (part) => parts.push(part));
    socket.on("end", () => {
      const content = Buffer.concat(parts);
      socket.end(`${content.length}:${content.subarray(-3)}`);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as net.AddressInfo;
  try {
    const connection = await agent.dial(port);
    connection.write(Buffer.alloc(1_000_000, "x"));
    connection.end("end");
    expect((await contentOf(connection)).toString()).toBe("1000003:end");
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
  await expect(agent.dial(port)).rejects.toThrow(code("not_found"));
});

test("metrics are those of this machine", async () => {
  const metrics = await agent.metrics();
  expect(metrics.cpuCount).toBeGreaterThan(0);
  expect(metrics.cpuTotalTicks).toBeGreaterThan(metrics.cpuBusyTicks);
  expect(metrics.memTotalBytes).toBeGreaterThan(metrics.memUsedBytes);
  expect(metrics.diskTotalBytes).toBeGreaterThan(metrics.diskUsedBytes);
});

test("set-up gives every later process its environment and puts files in place", async () => {
  const path = join(folder, "set-up");
  await agent.setup({
    envs: { GLOBAL: "yes", BOTH: "global" },
    files: [{ path, content: "token", mode: 0o600 }],
    entropy: Buffer.alloc(32, 1),
    hostname: hostname(),
  });
  expect((await run('echo "$GLOBAL $BOTH"', { envs: { BOTH: "own" } })).stdout).toBe("yes own\n");
  expect(await readFile(path, "utf8")).toBe("token");
  await agent.setup({ envs: {} });
  expect((await run('echo "[$GLOBAL]"')).stdout).toBe("[]\n");
});

test("a hundred commands at once all end as they should", async () => {
  const ends = await Promise.all(Array.from({ length: 100 }, (_, i) => run(`echo ${i}; exit ${i % 7}`)));
  expect(ends.map(({ stdout, exitCode }) => [stdout, exitCode])).toEqual(ends.map((_, i) => [`${i}\n`, i % 7]));
});

test("processes outlive the connection, and the next one finds them", async () => {
  const path = join(folder, "agent.sock");
  const server = net.createServer().listen(path);
  const connections = on(server, "connection");
  const child = spawn(builtProgram("firkin-agent"), ["--connect", path], { stdio: "ignore" });
  const exited = once(child, "exit");
  const connect = async () => {
    const [socket]: [net.Socket] = (await connections.next()).value;
    return connectGuestAgent(socket, { deadlineMs: 60_000 });
  };
  try {
    const before = await connect();
    const process = await before.exec(shell("read line; echo got $line", { stdin: true, tag: "survivor" }));
    before.close();
    await expect(process.end).rejects.toThrow(code("cancelled"));
    const after = await connect();
    const again = await after.attach({ tag: "survivor" });
    expect(again.pid).toBe(process.pid);
    await again.write(Buffer.from("it\n"));
    expect(await collect(again)).toMatchObject({ stdout: "got it\n", exitCode: 0 });
    await after.shutdown(1_000);
    expect(await after.closed).toEqual(code("machine_failed"));
    await exited;
  } finally {
    child.kill("SIGKILL");
    await exited;
    server.close();
  }
});
