/** Tests of SETUP, METRICS, SYNC and SHUTDOWN of an agent that is an ordinary process. */
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildSanitized, startAgent } from "../support/guest/built-agent.ts";
import { type FieldPair, op, type RawLink, type RawStream, tag } from "../support/guest/raw-link.ts";

let folder: string;

beforeAll(() => {
  buildSanitized();
  folder = mkdtempSync(join(tmpdir(), "firkin-setup-"));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const fileField = (path: string, value: string, mode?: number): FieldPair => [
  tag.file,
  [[tag.path, path], [tag.value, value], ...(mode === undefined ? [] : [[tag.mode, mode] as const])],
];
/** Sets up, and sends another request: the files are promised to the next request, not to the answer. */
async function setup(link: RawLink, ...fields: FieldPair[]): Promise<string> {
  const { status } = await link.call(op.setup, fields);
  await link.call(op.ping);
  return status;
}

test("small files are put in place with parents and mode, whole or not at all", async () => {
  await using link = await startAgent();
  const path = join(folder, "run/e2b/marker");
  expect(await setup(link, fileField(path, "one", 0o600), fileField(join(folder, "second"), ""))).toBe("ok");
  expect(readFileSync(path, "utf8")).toBe("one");
  expect(statSync(path).mode & 0o7777).toBe(0o600);
  expect(readFileSync(join(folder, "second"), "utf8")).toBe("");
  expect(await setup(link, fileField(path, "two"))).toBe("ok");
  expect(readFileSync(path, "utf8")).toBe("two");
  expect(statSync(path).mode & 0o7777).toBe(0o644);
  expect(await setup(link, fileField(`${path}/below`, "x"), fileField(join(folder, "third"), "x"))).toBe("ok");
  expect(existsSync(join(folder, "third"))).toBe(true);
});

test("a file of the same length is written over, and anything else in its place is replaced", async () => {
  await using link = await startAgent();
  const path = join(folder, "again");
  const inode = () => lstatSync(path).ino;
  expect(await setup(link, fileField(path, "one"))).toBe("ok");
  const first = inode();
  expect(await setup(link, fileField(path, "two"))).toBe("ok");
  expect([readFileSync(path, "utf8"), inode()]).toEqual(["two", first]);
  const other = join(folder, "other");
  linkSync(path, other);
  expect(await setup(link, fileField(path, "six"))).toBe("ok");
  expect([readFileSync(path, "utf8"), readFileSync(other, "utf8")]).toEqual(["six", "two"]);
  rmSync(path);
  symlinkSync(other, path);
  expect(await setup(link, fileField(path, "ten"))).toBe("ok");
  expect([lstatSync(path).isFile(), readFileSync(path, "utf8"), readFileSync(other, "utf8")]).toEqual([
    true,
    "ten",
    "two",
  ]);
});

test("a malformed set-up is refused before any change", async () => {
  await using link = await startAgent();
  const early = join(folder, "early");
  const bad: FieldPair[] = [
    [tag.entropy, Buffer.alloc(31)],
    [tag.hostname, ""],
    [tag.hostname, "a b"],
    [tag.hostname, "x".repeat(65)],
    [tag.env, "NOVALUE"],
    [tag.defaultUser, ""],
    [tag.timeNs, Buffer.of(1)],
    [tag.file, [[tag.value, "no path"]]],
    [tag.file, Buffer.of(tag.path, 0, 0, 0, 9)],
  ];
  for (const field of bad)
    expect(await setup(link, fileField(early, "x"), [tag.env, "A=1"], field)).toBe("invalid_argument");
  expect(existsSync(early)).toBe(false);
  expect((await link.shell("echo [$A]").collect()).stdout).toBe("[]\n");
});

test("the clock and name of a machine that is not its own stay as they are", async () => {
  await using link = await startAgent();
  const name = hostname();
  const fields: FieldPair[] = [
    [tag.timeNs, 1_000_000_000n],
    [tag.entropy, Buffer.alloc(32)],
    [tag.hostname, "somebody-else"],
  ];
  expect(await setup(link, ...fields)).toBe("ok");
  expect(hostname()).toBe(name);
  expect(Date.now()).toBeGreaterThan(1_500_000_000_000);
});

test.runIf(process.getuid?.() === 0)("the default user is that of every later request", async () => {
  await using link = await startAgent();
  chmodSync(folder, 0o755);
  expect(await setup(link, [tag.defaultUser, "daemon"], [tag.defaultCwd, folder])).toBe("ok");
  expect(
    (
      await link.call(op.exec, [
        [tag.command, "id"],
        [tag.argument, "-un"],
      ])
    ).stdout,
  ).toBe("daemon\n");
  expect(
    (
      await link.call(op.exec, [
        [tag.command, "pwd"],
        [tag.user, "root"],
      ])
    ).stdout,
  ).toBe(`${folder}\n`);
  expect(await setup(link, [tag.defaultUser, "gone"])).toBe("ok");
  expect((await link.call(op.exec, [[tag.command, "id"]])).message).toBe("invalid username: 'gone'");
});

test("metrics are plausible", async () => {
  await using link = await startAgent();
  const { fields } = await link.call(op.metrics);
  const metrics = Object.fromEntries(
    fields.groups(tag.metric).map((metric) => [metric.text(tag.name), metric.int(tag.size) ?? -1]),
  );
  const at = (name: string) => metrics[name] ?? -1;
  expect(Object.keys(metrics)).toEqual([
    "cpu_count",
    "cpu_busy_ticks",
    "cpu_total_ticks",
    "mem_total",
    "mem_used",
    "mem_cache",
    "disk_total",
    "disk_used",
  ]);
  expect(at("cpu_count")).toBeGreaterThan(0);
  expect(at("cpu_total_ticks")).toBeGreaterThan(at("cpu_busy_ticks"));
  expect(at("mem_total")).toBeGreaterThan(at("mem_used"));
  expect(at("disk_total")).toBeGreaterThan(at("disk_used"));
  for (const value of Object.values(metrics)) expect(value).toBeGreaterThan(0);
});

test("sync answers, also several at once, also after its stream was reset", async () => {
  await using link = await startAgent();
  const streams = [1, 2, 3].map(() => link.open(op.sync));
  streams[1]?.reset();
  for (const stream of streams) expect(["ok", "cancelled"]).toContain((await stream.collect()).status);
});

/** Starts a process that runs this command at SIGTERM, and runs on otherwise. */
async function running(link: RawLink, atTerm: string): Promise<RawStream> {
  const stream = link.shell(`trap '${atTerm}' TERM; echo ready; while :; do sleep 0.02; done`, [[tag.stdin, true]]);
  await stream.until("ready");
  return stream;
}

test("shutdown sends TERM, refuses new requests, answers, and ends the agent", async () => {
  await using link = await startAgent();
  const polite = await running(link, "echo asked; read -r word; exit 0");
  const shutdown = link.open(op.shutdown, [[tag.deadlineMs, 600_000]]);
  await polite.until("asked");
  expect((await link.call(op.stat, [[tag.path, "/"]])).status).toBe("failed_precondition");
  expect((await link.call(op.ping)).status).toBe("ok");
  polite.data("go\n");
  const [{ fields }, { status }] = await Promise.all([polite.collect(), shutdown.collect()]);
  expect([fields.int(tag.exitCode), status]).toEqual([0, "ok"]);
  expect(await link.exited).toEqual({ code: 0, signal: null });
});

test("shutdown kills processes that run at its deadline", async () => {
  await using link = await startAgent();
  const rude = await running(link, "");
  const shutdown = link.open(op.shutdown, [[tag.deadlineMs, 50]]);
  const [{ fields }, { status }] = await Promise.all([rude.collect(), shutdown.collect()]);
  expect([fields.int(tag.signal), status]).toEqual([9, "ok"]);
  expect(await link.exited).toEqual({ code: 0, signal: null });
});

test("shutdown without processes is quick", async () => {
  await using link = await startAgent();
  expect((await link.call(op.shutdown, [[tag.deadlineMs, 600_000]])).status).toBe("ok");
  expect((await link.exited).code).toBe(0);
});
