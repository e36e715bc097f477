/** Tests of EXEC, ATTACH, LIST and SIGNAL. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildSanitized, startAgent, startAgentWithFile } from "../support/guest/built-agent.ts";
import { type FieldPair, op, type RawLink, type RawStream, tag, WINDOW } from "../support/guest/raw-link.ts";

const isRoot = process.getuid?.() === 0;
let folder: string;

beforeAll(() => {
  buildSanitized();
  folder = mkdtempSync(join(tmpdir(), "firkin-processes-"));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function pidOf(stream: RawStream): Promise<number> {
  const { kind, fields } = await stream.event();
  expect(kind).toBe(1);
  return fields.int(tag.pid) ?? 0;
}

const signal = (link: RawLink, pid: number, number: number) =>
  link.call(op.signal, [
    [tag.pid, pid],
    [tag.signal, number],
  ]);

/** The processes of a session that have not ended. */
function sessionOf(leader: number): number[] {
  const { stdout } = spawnSync("ps", ["-s", String(leader), "-o", "pid=,state="], { encoding: "utf8" });
  const lines = stdout.split("\n").filter((line) => /\d+ [^ZX]/.test(line));
  return lines.map((line) => Number.parseInt(line, 10));
}

const attach = (link: RawLink, pid: number) => link.open(op.attach, [[tag.pid, pid]]);

test("a process is started first, then sends output on both channels and its exit code", async () => {
  await using link = await startAgent();
  const { status, events, stdout, stderr, fields } = await link.shell("echo out; echo err >&2; exit 7").collect();
  expect({ status, stdout, stderr }).toEqual({ status: "ok", stdout: "out\n", stderr: "err\n" });
  expect(events.map(({ kind }) => kind)).toEqual([1]);
  expect(fields.int(tag.pid)).toBe(events[0]?.fields.int(tag.pid));
  expect(fields.int(tag.exitCode)).toBe(7);
  expect(fields.flag(tag.exited)).toBe(true);
  expect(fields.int(tag.signal)).toBeUndefined();
});

test("a process has exactly the environment it should", async () => {
  await using link = await startAgent();
  await link.call(op.setup, [
    [tag.env, "GLOBAL=1"],
    [tag.env, "BOTH=global"],
    [tag.env, "HOME=/elsewhere"],
  ]);
  const run = async (env: readonly FieldPair[]) =>
    (await link.call(op.exec, [[tag.command, "env"], [tag.cwd, "/"], ...env])).stdout.trimEnd().split("\n").sort();
  const own: FieldPair[] = [
    [tag.env, "BOTH=own"],
    [tag.env, "EMPTY="],
    [tag.env, "SPLIT=a=b"],
  ];
  expect(await run(own)).toEqual([
    "BOTH=own",
    "EMPTY=",
    "GLOBAL=1",
    "HOME=/elsewhere",
    "LANG=C.UTF-8",
    "LOGNAME=root",
    "PATH=/root/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    expect.stringMatching(/^SHELL=\//),
    "SPLIT=a=b",
    "USER=root",
  ]);
  await link.call(op.setup, [[tag.count, 0]]);
  expect(await run([])).toContain("HOME=/root");
  for (const env of ["NOVALUE", "=x"]) {
    const { status } = await link.call(op.exec, [
      [tag.command, "env"],
      [tag.cwd, "/"],
      [tag.env, env],
    ]);
    expect(status).toBe("invalid_argument");
  }
});

test("a process has the variables that a login gets, which the client's win over", async () => {
  const environment = join(folder, "environment");
  const lines = [
    "# a comment",
    "LANG=de_DE.UTF-8  # said here",
    'export QUOTED="two words"',
    "  HALF='open",
    "1=no name",
    "no variable",
    "EMPTY=",
    "OWN=login",
    `LONG=${"x".repeat(10_000)}`,
    "LAST=without an end of line",
  ];
  writeFileSync(environment, lines.join("\n"));
  await using link = await startAgentWithFile(environment, "/etc/environment");
  const { stdout } = await link.call(op.exec, [
    [tag.command, "env"],
    [tag.cwd, "/"],
    [tag.env, "OWN=client"],
  ]);
  const found = stdout.trimEnd().split("\n").sort();
  expect(found.filter((line) => !/^(HOME|LOGNAME|LONG|PATH|SHELL|USER)=/.test(line))).toEqual([
    "EMPTY=",
    "HALF=open",
    "LANG=de_DE.UTF-8",
    "LAST=without an end of line",
    "OWN=client",
    "QUOTED=two words",
  ]);
  expect(found.find((line) => line.startsWith("LONG="))).toHaveLength(10_005);
});

test("a process has its own session, three descriptors, clean signals, an oom score and a umask", async () => {
  await using link = await startAgent();
  const look = (path: string) =>
    link.call(op.exec, [
      [tag.command, "cat"],
      [tag.argument, path],
      [tag.cwd, "/"],
    ]);
  const { stdout } = await link
    .shell("ls /proc/self/fd | tr '\\n' ' '; readlink /proc/$$/fd/0; cat /proc/self/oom_score_adj; umask")
    .collect();
  // 3 is ls's own.
  expect(stdout).toBe("0 1 2 3 /dev/null\n100\n0022\n");
  const status = (await look("/proc/self/status")).stdout;
  expect(status).toMatch(/SigBlk:\s0+\n/);
  expect(status).toMatch(/SigIgn:\s0+\n/);
  const [pid, , , , group, session] = (await look("/proc/self/stat")).stdout.split(" ");
  expect([group, session]).toEqual([pid, pid]);
});

test("standard input has bytes, an end and back-pressure, or is absent", async () => {
  await using link = await startAgent();
  const count = link.shell("wc -c", [[tag.stdin, true]]);
  let credited = 0;
  const total = 1_000_000;
  for (let sent = 0; sent < total; sent += 20_000) {
    while (sent + 20_000 - credited > WINDOW) credited += await count.credit();
    count.data(Buffer.alloc(20_000, "i"));
  }
  count.end();
  expect((await count.collect()).stdout.trim()).toBe(String(total));
  const none = link.shell("cat; echo end");
  none.data("ignored");
  expect((await none.collect()).stdout).toBe("end\n");
  const deaf = link.shell("exec <&-; echo closed; exec sleep 1000", [[tag.stdin, true]]);
  const pid = await pidOf(deaf);
  await deaf.until("closed");
  for (let i = 0; i < 8; i++) deaf.data(Buffer.alloc(32_768));
  expect(await deaf.credit()).toBeGreaterThanOrEqual(65_536);
  await signal(link, pid, 9);
  expect((await deaf.collect()).status).toBe("ok");
});

test("a process waits while its output is not taken, and goes on", async () => {
  await using link = await startAgent();
  const stream = link.shell("head -c 3000000 /dev/zero; echo done >&2");
  await expect.poll(() => stream.waitingBytes).toBeGreaterThanOrEqual(WINDOW - 100);
  const { data, stderr } = await stream.collect();
  expect(data[1].length).toBe(3_000_000);
  expect(stderr).toBe("done\n");
});

test("a terminal has size, resize, echo, controlling terminal and end", async () => {
  await using link = await startAgent();
  const stream = link.shell("stty size; tty; ps -o tty= -p $$; read -r line; stty size; echo got $line; exit 3", [
    [tag.pty, true],
    [tag.columns, 100],
    [tag.rows, 30],
  ]);
  const first = await stream.until("pts/");
  expect(first).toContain("30 100\r\n");
  stream.control(1, [
    [tag.columns, 132],
    [tag.rows, 43],
  ]);
  stream.control(1, [[tag.columns, 0]]);
  stream.control(77, []);
  stream.data("hello\r");
  stream.end();
  const { terminal, fields } = await stream.collect();
  expect(terminal).toContain("43 132\r\ngot hello\r\n");
  expect(fields.int(tag.exitCode)).toBe(3);
});

test("terminal frames are small, and a job of the terminal is interrupted by its key", async () => {
  await using link = await startAgent();
  // `exec`, because a shell with a child that ends by itself as the key comes goes on with its next command.
  const flood = link.shell("head -c 100000 /dev/zero | tr '\\0' x; echo end; exec sleep 100", [[tag.pty, true]]);
  let seen = "";
  while (!seen.includes("end")) {
    const frame = await flood.next();
    expect(frame.payload.length).toBeLessThanOrEqual(16_384);
    flood.window(frame.payload.length);
    if (frame.type === "DATA") seen += frame.payload.toString("latin1");
  }
  expect(seen.length).toBeGreaterThan(100_000);
  flood.data("\x03");
  const { fields } = await flood.collect();
  expect(fields.flag(tag.exited) ? fields.int(tag.exitCode) : fields.int(tag.signal)).toSatisfy(
    (n) => n === 2 || n === 130,
  );
});

test("impossible starts are refused", async () => {
  await using link = await startAgent();
  const start = (...fields: FieldPair[]) => link.call(op.exec, fields);
  const missing = await start([tag.command, "/no/such/thing"], [tag.cwd, "/"]);
  expect(missing.status).toBe("invalid_argument");
  expect(missing.message).toBe("cannot run '/no/such/thing': No such file or directory");
  expect(missing.fields.int(tag.errno)).toBe(2);
  expect((await start([tag.command, "no-such-thing"], [tag.cwd, "/"])).fields.int(tag.errno)).toBe(2);
  expect((await start([tag.command, "/etc/passwd"], [tag.cwd, "/"])).fields.int(tag.errno)).toBe(13);
  const cwd = await start([tag.command, "true"], [tag.cwd, "/no/such/folder"]);
  expect(cwd).toMatchObject({ status: "invalid_argument", message: "cwd '/no/such/folder' does not exist" });
  expect((await start([tag.command, "true"], [tag.cwd, "/etc/passwd"])).message).toBe(
    "cwd '/etc/passwd' is not a directory",
  );
  expect(await start([tag.command, "true"], [tag.user, "nobody-here"])).toMatchObject({
    status: "unauthenticated",
    message: "invalid username: 'nobody-here'",
  });
  expect((await start([tag.command, ""])).status).toBe("invalid_argument");
  expect((await start()).status).toBe("invalid_argument");
  expect((await link.call(op.list)).fields.groups(tag.process)).toEqual([]);
});

test.runIf(isRoot)("another user may open its standard streams anew", async () => {
  await using link = await startAgent();
  const stream = link.shell("cat /dev/stdin > /dev/stdout; echo err > /dev/stderr", [
    [tag.user, "daemon"],
    [tag.stdin, true],
  ]);
  stream.data(Buffer.from("in"));
  stream.end();
  expect(await stream.collect()).toMatchObject({ status: "ok", stdout: "in", stderr: "err\n" });
});

test.runIf(isRoot)("another user: ids, groups, home, a folder they may not enter", async () => {
  await using link = await startAgent();
  const { stdout } = await link.shell("id -u; id -g; id -G; echo $HOME $USER", [[tag.user, "daemon"]]).collect();
  expect(stdout).toBe("1\n1\n1\n/usr/sbin daemon\n");
  expect((await link.shell("id -un", [[tag.user, "2"]]).collect()).stdout).toBe("bin\n");
  const closed = mkdtempSync(join(folder, "closed-"));
  const refused = await link.call(op.exec, [
    [tag.command, "true"],
    [tag.cwd, closed],
    [tag.user, "daemon"],
  ]);
  expect(refused.status).toBe("invalid_argument");
  expect(refused.fields.int(tag.errno)).toBe(13);
});

test("programs are found by the process's own PATH, folders by home", async () => {
  await using link = await startAgent();
  await link
    .shell(`printf '#!/bin/sh\\necho found in $(pwd)\\n' > ${folder}/my-tool; chmod +x ${folder}/my-tool`)
    .collect();
  const { stdout } = await link.call(op.exec, [
    [tag.command, "my-tool"],
    [tag.cwd, "/etc/../tmp"],
    [tag.env, `PATH=/nowhere:${folder}:/bin:/usr/bin`],
  ]);
  expect(stdout).toBe("found in /tmp\n");
  expect(
    (
      await link.call(op.exec, [
        [tag.command, "pwd"],
        [tag.cwd, "~"],
      ])
    ).stdout,
  ).toBe("/root\n");
  expect((await link.call(op.exec, [[tag.command, "pwd"]])).stdout).toBe("/root\n");
  await link.call(op.setup, [[tag.defaultCwd, "/usr"]]);
  expect((await link.call(op.exec, [[tag.command, "pwd"]])).stdout).toBe("/usr\n");
});

test.each([
  ["KILL", 9],
  ["TERM", 15],
])("%s ends the whole session of a command, and what made itself a session of its own stays", async (_name, number) => {
  await using link = await startAgent();
  const own = `${folder}/own-${number}`;
  const stream = link.shell(
    `sleep 1000 & (sleep 1000 & sleep 1000) & setsid sh -c 'echo $$ >${own}; exec sleep 1000' </dev/null >/dev/null 2>&1 &
    until [ -s ${own} ]; do sleep 0.01; done; echo all; wait`,
  );
  const pid = await pidOf(stream);
  await stream.until("all");
  // The shell and three sleepers; a shell becomes its last command.
  await expect.poll(() => sessionOf(pid)).toHaveLength(4);
  expect((await signal(link, pid, number)).status).toBe("ok");
  await stream.collect();
  await expect.poll(() => sessionOf(pid)).toEqual([]);
  const other = Number(readFileSync(own, "utf8"));
  expect(sessionOf(other)).toEqual([other]);
  process.kill(other, 9);
});

test("a signal reaches what a command has left behind in its session, as long as that holds its output", async () => {
  await using link = await startAgent();
  const stream = link.shell("sleep 1000 & echo started");
  const pid = await pidOf(stream);
  await stream.until("started");
  await expect.poll(() => existsSync(`/proc/${pid}`)).toBe(false);
  await expect.poll(() => sessionOf(pid)).toHaveLength(1);
  expect((await signal(link, pid, 9)).status).toBe("ok");
  expect((await stream.collect()).fields.int(tag.exitCode)).toBe(0);
  await expect.poll(() => sessionOf(pid)).toEqual([]);
});

test("a signal goes to that pid, and the end of the process names the signal", async () => {
  await using link = await startAgent();
  const stream = link.shell("trap 'echo got it' USR1; echo ready; while :; do sleep 0.02; done");
  const pid = await pidOf(stream);
  await stream.until("ready");
  expect((await signal(link, pid, 10)).status).toBe("ok");
  await stream.until("got it");
  expect((await signal(link, pid, 15)).status).toBe("ok");
  const { fields } = await stream.collect();
  expect(fields.int(tag.exitCode)).toBe(-1);
  expect(fields.flag(tag.exited)).toBe(false);
  expect(fields.int(tag.signal)).toBe(15);
  expect(await signal(link, 99_999_999, 9)).toMatchObject({
    status: "not_found",
    message: "process with pid 99999999 not found",
  });
  expect((await signal(link, process.pid, 10)).status).toBe("not_found");
  expect((await signal(link, pid, 0)).status).toBe("invalid_argument");
  expect((await signal(link, pid, 65)).status).toBe("invalid_argument");
});

test("the end waits for other holders of the output, until a TERM or KILL", async () => {
  await using link = await startAgent();
  for (const number of [9, 15]) {
    const stream = link.shell("echo mine; (sleep 1000 & echo holder); exit 5");
    const pid = await pidOf(stream);
    await stream.until("holder");
    await expect
      .poll(async () => (await link.call(op.list)).fields.groups(tag.process).at(-1)?.int(tag.exitCode))
      .toBe(5);
    expect((await signal(link, pid, number)).status).toBe("ok");
    const { status, fields } = await stream.collect();
    expect({ status, code: fields.int(tag.exitCode) }).toEqual({ status: "ok", code: 5 });
  }
});

test("a killed process ends while others flood its pipe", async () => {
  await using link = await startAgent();
  const stream = link.shell("yes & yes >&2 & exec sleep 1000");
  const pid = await pidOf(stream);
  await stream.until("y");
  const end = stream.collect();
  expect((await signal(link, pid, 9)).status).toBe("ok");
  expect((await end).fields.int(tag.signal)).toBe(9);
});

test("output without an attached stream is thrown away, and the process goes on", async () => {
  await using link = await startAgent();
  const stream = link.shell(
    `echo first; read -r x; head -c 5000000 /dev/zero; echo over > ${folder}/over; sleep 1000`,
    [[tag.stdin, true]],
  );
  const pid = await pidOf(stream);
  await stream.until("first");
  stream.data("go\n");
  stream.reset();
  expect((await stream.collect()).status).toBe("cancelled");
  await expect.poll(async () => (await link.call(op.stat, [[tag.path, `${folder}/over`]])).status).toBe("ok");
  // The pipe may still hold some. The agent throws a part of it away with every request that it answers.
  for (let turn = 0; turn < 100; turn++) await link.call(op.ping);
  const again = attach(link, pid);
  expect(await pidOf(again)).toBe(pid);
  await signal(link, pid, 9);
  const { stdout } = await again.collect();
  expect(stdout).toBe("");
});

test("a newer attachment takes over, with input and output", async () => {
  await using link = await startAgent();
  const first = link.shell("echo ready; cat", [
    [tag.stdin, true],
    [tag.tag, "my cat"],
  ]);
  const pid = await pidOf(first);
  await first.until("ready");
  const second = link.open(op.attach, [[tag.tag, "my cat"]]);
  expect(await pidOf(second)).toBe(pid);
  expect((await first.collect()).status).toBe("cancelled");
  second.data("for the second");
  await second.until("for the second");
  const third = attach(link, pid);
  expect((await second.collect()).status).toBe("cancelled");
  third.end();
  expect((await third.collect()).fields.int(tag.exitCode)).toBe(0);
  expect((await link.call(op.attach, [[tag.tag, "no such"]])).status).toBe("not_found");
  expect((await link.call(op.attach, [[tag.pid, 1]])).status).toBe("not_found");
  expect((await link.call(op.attach)).status).toBe("invalid_argument");
});

test("an ended process can be attached to later", async () => {
  await using link = await startAgent();
  const stream = link.shell("exit 4", [[tag.tag, "short"]]);
  const pid = (await stream.collect()).fields.int(tag.pid) ?? 0;
  const { status, events, fields } = await attach(link, pid).collect();
  expect(status).toBe("ok");
  expect(events).toHaveLength(1);
  expect(fields.int(tag.exitCode)).toBe(4);
  expect((await signal(link, pid, 15)).status).toBe("ok");
});

test("the list has the request of a process, and its end", async () => {
  await using link = await startAgent();
  const run = link.shell("exec sleep 1000", [
    [tag.tag, "t"],
    [tag.env, "A=1"],
    [tag.stdin, true],
  ]);
  const pid = await pidOf(run);
  await link.shell("exit 2").collect();
  const [first, second] = (await link.call(op.list)).fields.groups(tag.process);
  expect(first?.int(tag.pid)).toBe(pid);
  expect(first?.text(tag.command)).toBe("/bin/sh");
  expect(first?.all(tag.argument).map(String)).toEqual(["-c", "exec sleep 1000"]);
  expect(first?.all(tag.env).map(String)).toEqual(["A=1"]);
  expect(first?.text(tag.cwd)).toBe("/");
  expect(first?.text(tag.tag)).toBe("t");
  expect(first?.flag(tag.stdin)).toBe(true);
  expect(first?.flag(tag.pty)).toBe(false);
  expect(first?.all(tag.exitCode)).toEqual([]);
  expect(second?.int(tag.exitCode)).toBe(2);
  expect(second?.flag(tag.exited)).toBe(true);
  expect(second?.all(tag.tag)).toEqual([]);
});

test("a list that is longer than a frame comes in pieces", async () => {
  await using link = await startAgent();
  const long = "x".repeat(10_000);
  await Promise.all(
    Array.from({ length: 20 }, (_, i) => link.shell("exit 0", [[tag.env, `LONG${i}=${long}`]]).collect()),
  );
  const huge = "y".repeat(30_000);
  await link.shell("exit 0", [[tag.env, `HUGE=${huge}`]]).collect();
  const { events, fields } = await link.call(op.list);
  expect(events.map(({ kind }) => kind)).toEqual(Array(events.length).fill(5));
  const all = [...events.map((event) => event.fields), fields].flatMap((part) => part.groups(tag.process));
  expect(all).toHaveLength(21);
  expect(all.filter((info) => info.text(tag.env)?.length === long.length + 6)).toHaveLength(10);
  // The environment is left out, because the description is over 16 KiB.
  expect(all.at(-1)?.all(tag.env)).toEqual([]);
});

test("at most 256 ended processes are remembered", async () => {
  await using link = await startAgent();
  for (let round = 0; round < 10; round++) {
    await Promise.all(Array.from({ length: 30 }, () => link.shell("exit 0").collect()));
  }
  const { events, fields } = await link.call(op.list);
  const all = [...events.map((event) => event.fields), fields].flatMap((part) => part.groups(tag.process));
  expect(all).toHaveLength(256);
});

test("orphans and many commands leave neither zombies nor descriptors", async () => {
  await using link = await startAgent();
  const count = () => link.shell(`ls /proc/${link.child.pid}/fd | wc -l`).collect();
  await link.shell("true").collect();
  const before = (await count()).stdout;
  for (let i = 0; i < 50; i++) await link.shell("(sleep 0.01 &) ; true").collect();
  await link.shell("true", [[tag.pty, true]]).collect();
  // The descriptors of an orphan are closed when it is reaped, a moment after the command.
  await expect.poll(async () => (await count()).stdout).toBe(before);
  const zombies = `ps -o stat= --ppid ${link.child.pid} | grep -c Z`;
  await expect.poll(async () => (await link.shell(zombies).collect()).stdout).toBe("0\n");
  expect(readlinkSync(`/proc/${link.child.pid}/exe`)).toContain("firkin-agent");
});
