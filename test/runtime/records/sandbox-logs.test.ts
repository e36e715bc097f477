import { expect, test } from "vitest";
import type { OutputChunk } from "../../../src/guest/agent.ts";
import { SandboxLogs } from "../../../src/runtime/records/sandbox-logs.ts";
import type { ProcessSpec, SandboxLogEntry } from "../../../src/types.ts";
import { manualClock, memoryLedger } from "../../ledger/support.ts";
import { FakeDaemon } from "../../support/fakes/fake-daemon.ts";

const everything = { search: "", order: "asc", limit: 1_000 } as const;
const spec: ProcessSpec = { command: "/bin/bash", args: ["-l", "-c", "echo hi"], envs: { SECRET: "x" }, stdin: false };
const ended = (exitCode: number) => ({ at: "ended", end: { exitCode, exited: true }, atMs: 0 }) as const;

function setUp() {
  const logs = new SandboxLogs(memoryLedger(), manualClock());
  const process = logs.ofSession("i1").follow(7, spec);
  const messages = () => logs.read("i1", everything).map(({ message }) => message);
  const output = (text: string | Uint8Array, channel: OutputChunk["channel"] = "stdout") =>
    process.output({ channel, bytes: Buffer.from(text) });
  return { logs, process, messages, output };
}

test("the log has a command's start, its lines and its end", () => {
  const { logs, process, output } = setUp();
  output("one\ntw");
  output("oops\n", "stderr");
  output("o\r\n\nlast");
  process.settled(ended(3));
  const lines = logs.read("i1", everything).map(({ message, level, fields }) => [level, message, fields.event]);
  expect(lines).toEqual([
    ["info", 'Process 7 started: /bin/bash -l -c "echo hi"', "start"],
    ["info", "one", "stdout"],
    ["info", "oops", "stderr"],
    ["info", "two", "stdout"],
    ["info", "", "stdout"],
    ["info", "last", "stdout"],
    ["warn", "Process 7 exited with 3", "end"],
  ]);
  expect(JSON.stringify(logs.read("i1", everything))).not.toContain("SECRET");
});

test("a character that arrives in two chunks is put together, and invalid bytes are replaced", () => {
  const { messages, output } = setUp();
  const bytes = Buffer.from("é\n");
  output(bytes.subarray(0, 1));
  output(bytes.subarray(1));
  output(Buffer.from([0xff, 0x0a]));
  expect(messages().slice(1)).toEqual(["é", "\ufffd"]);
});

test("the output of a terminal is not in the log", () => {
  const { process, messages, output } = setUp();
  output("\u001b[31mred", "terminal");
  process.settled(ended(0));
  expect(messages()).toEqual(['Process 7 started: /bin/bash -l -c "echo hi"', "Process 7 exited with 0"]);
});

test("a flood of output is cut and counted until the next flush, and memory and ledger stay small", () => {
  const { logs, messages, output } = setUp();
  for (let n = 0; n < 1_000; n += 1) output("y\n".repeat(8_192));
  output("x".repeat(100_000));
  expect(messages().length).toBeLessThan(250);
  expect(messages().at(-1)).toMatch(/^\d+ bytes of commands and their output are left out/);
  output("after\n");
  expect(messages().at(-1)).toMatch(/after$/);
  for (let n = 0; n < 50; n += 1) {
    output("z\n".repeat(1_000));
    logs.flush();
  }
  expect(logs.read("i1", { ...everything, limit: 100_000 })).toHaveLength(2_000);
});

test("a line without an end becomes several", () => {
  const { messages, output } = setUp();
  output("a".repeat(5_000));
  expect(
    messages()
      .slice(1)
      .map(({ length }) => length),
  ).toEqual([2_048, 2_048, 904]);
});

test("on a full disk lines wait, and written lines can be read", () => {
  const ledger = memoryLedger();
  const logs = new SandboxLogs(ledger, manualClock());
  const setPages = (count: number) => void ledger.statement(`pragma max_page_count = ${count}`).all({});
  const count = () => logs.read("i1", everything).length;
  logs.note("i1", "before");
  expect(count()).toBe(1);
  setPages(1);
  for (let n = 0; n < 500; n += 1) logs.note("i1", "x".repeat(1_000));
  expect(() => logs.flush()).toThrow(/No space is left/);
  expect(count()).toBe(1);
  setPages(1_000_000);
  expect(count()).toBe(501);
});

test("the log has the life of a sandbox, and can be read while the sandbox is paused and after its end", async () => {
  const daemon = await FakeDaemon.open();
  try {
    const { record } = await daemon.create();
    const events = (entries: readonly SandboxLogEntry[]) => entries.map(({ fields }) => fields.event);
    const read = () => daemon.runtime.observations.logs(record.id, { ...everything, level: "info" });
    await daemon.pause(record.id);
    expect(events(read())).toEqual(["running", "paused"]);
    await daemon.runtime.resumes.resume(record.id, 60_000);
    await daemon.runtime.snapshots.take(record.id);
    await daemon.runtime.deadlines.set(record.id, 90_000);
    await daemon.runtime.ends.kill(record.id);
    expect(events(read())).toEqual(["running", "paused", "running", "snapshot", "ended"]);
    expect(read().at(-1)).toMatchObject({ message: "The sandbox was killed", level: "info" });
    const debug = daemon.runtime.observations.logs(record.id, { ...everything, level: "debug" });
    expect(events(debug)).toContain("timeout");
    expect(() => daemon.runtime.observations.logs("inone", everything)).toThrow(/doesn't exist/);
  } finally {
    await daemon[Symbol.asyncDispose]();
  }
});
