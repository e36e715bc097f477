import { expect, test } from "vitest";
import { DomainError } from "../../../src/errors.ts";
import type { Logger } from "../../../src/log.ts";
import {
  maxLagBytes,
  type ProcessEvent,
  type ProcessSubscription,
} from "../../../src/runtime/processes/process-subscription.ts";
import { ProcessTable } from "../../../src/runtime/processes/process-table.ts";
import type { ProcessSpec, SpanName } from "../../../src/types.ts";
import { ManualClock } from "../../support/fakes/manual-clock.ts";
import { ScriptedAgent, type ScriptedProcess } from "../../support/fakes/scripted-agent.ts";

const spec: ProcessSpec = { command: "sh", args: ["-c", "x"], envs: {}, stdin: true };
const silent = { warn() {}, info() {}, error() {}, debug() {}, trace() {} } as unknown as Logger;
const turns = () => new Promise<void>((resolve) => setImmediate(resolve));

function setUp() {
  const agent = new ScriptedAgent();
  const clock = new ManualClock();
  const ending = new AbortController();
  const samples: [SpanName, number][] = [];
  let restoredMs: number | undefined = clock.monotonicMs();
  const table = new ProcessTable(
    {
      agent: agent.asAgent(),
      ended: ending.signal,
      log: silent,
      recordSample: (span, ms) => samples.push([span, ms]),
      takeRestoreStart: () => {
        const taken = restoredMs;
        restoredMs = undefined;
        return taken;
      },
    },
    clock,
  );
  const last = (): ScriptedProcess => agent.processes.at(-1) as ScriptedProcess;
  return { agent, clock, ending, samples, table, last };
}

async function all(events: ProcessSubscription): Promise<string[]> {
  const seen: string[] = [];
  for await (const event of events) seen.push(show(event));
  return seen;
}

function show(event: ProcessEvent): string {
  return event.type === "end" ? `end ${event.end.exitCode}` : `${event.channel} ${Buffer.from(event.bytes)}`;
}

test("a subscriber sees every chunk in order and then the end", async () => {
  const { table, last } = setUp();
  const { events } = await table.start(spec);
  last().emit("a");
  last().emit("b", "stderr");
  last().exit({ exitCode: 3, exited: true });
  expect(await all(events)).toEqual(["stdout a", "stderr b", "end 3"]);
});

test("a later subscriber gets the output after it, and both get the end", async () => {
  const { table, last } = setUp();
  const { process, events } = await table.start(spec);
  last().emit("a");
  await turns();
  const late = process.subscribe();
  last().emit("b");
  last().exit();
  expect(await all(events)).toEqual(["stdout a", "stdout b", "end 0"]);
  expect(await all(late)).toEqual(["stdout b", "end 0"]);
});

test("without a subscriber output is read and dropped, as fast as the unwanted pace allows", async () => {
  const { table, last, clock } = setUp();
  const { process, events } = await table.start(spec);
  events.close();
  for (let i = 0; i < 1_000; i++) last().emit(Buffer.alloc(32 * 1024));
  await turns();
  expect(last().taken).toBeLessThan(40);
  for (let ms = 0; ms < 1_000; ms += 50) await clock.advance(50);
  expect(last().taken).toBeGreaterThan(110);
  expect(last().taken).toBeLessThan(180);
  expect(process.subscriberCount).toBe(0);
  expect(process.state.at).toBe("running");
});

test("small chunks of output that nobody reads are paced as well", async () => {
  const { table, last } = setUp();
  const { events } = await table.start(spec);
  events.close();
  for (let i = 0; i < 10_000; i++) last().emit("x", i % 2 ? "stdout" : "stderr");
  await turns();
  expect(last().taken).toBeLessThan(400);
});

test("a subscriber that comes gets the output at full speed, and the end of the session ends the wait", async () => {
  const { table, last, clock } = setUp();
  const { process, events } = await table.start(spec);
  events.close();
  for (let i = 0; i < 500; i++) last().emit(Buffer.alloc(32 * 1024));
  await turns();
  const late = process.subscribe();
  last().exit();
  expect((await all(late)).length).toBeGreaterThan(400);
  expect(clock.sleeperCount).toBe(0);

  const { events: unread, process: other } = await table.start(spec);
  unread.close();
  for (let i = 0; i < 500; i++) last().emit(Buffer.alloc(32 * 1024));
  await turns();
  other.lose(new DomainError("cancelled", "the session has ended"));
  await turns();
  expect(clock.sleeperCount).toBe(0);
  expect(other.state.at).toBe("lost");
});

test("a slow reader makes the process wait when it is the only one", async () => {
  const { table, last } = setUp();
  const { events } = await table.start(spec);
  for (let i = 0; i < 100; i++) last().emit(Buffer.alloc(32 * 1024));
  await turns();
  expect(last().taken).toBeLessThan(12);
  last().exit();
  expect(await all(events)).toHaveLength(101);
});

test("a slow reader does not hold up another one, and is cut off when it is far behind", async () => {
  const { table, last } = setUp();
  const { process, events: fast } = await table.start(spec);
  const slow = process.subscribe();
  const chunkCount = (2 * maxLagBytes) / (32 * 1024);
  const reading = all(fast);
  for (let i = 0; i < chunkCount; i++) last().emit(Buffer.alloc(32 * 1024));
  last().exit();
  expect(await reading).toHaveLength(chunkCount + 1);
  await expect(all(slow)).rejects.toMatchObject({ code: "capacity_exhausted" });
});

test("the process goes on when its full subscriber leaves", async () => {
  const { table, last, clock } = setUp();
  const { events } = await table.start(spec);
  for (let i = 0; i < 50; i++) last().emit(Buffer.alloc(32 * 1024));
  await turns();
  expect(last().taken).toBeLessThan(50);
  events.close();
  await turns();
  await clock.advance(1_000);
  expect(last().taken).toBe(50);
});

test("the end is kept for 30 seconds, by pid and by tag", async () => {
  const { table, last, clock } = setUp();
  const { process, events } = await table.start({ ...spec, tag: "job" });
  last().exit({ exitCode: -1, exited: false, signal: 9 });
  await all(events);
  await clock.advance(29_000);
  expect(await all((await table.find({ pid: process.pid })).subscribe())).toEqual(["end -1"]);
  expect(await all((await table.find({ tag: "job" })).subscribe())).toEqual(["end -1"]);
  await expect(table.findLive({ tag: "job" })).rejects.toMatchObject({ code: "not_found" });
  await clock.advance(2_000);
  await expect(table.find({ pid: process.pid })).rejects.toThrow(`process with pid ${process.pid} not found`);
});

test("only live processes are listed, and a live one is found by its tag before an ended one", async () => {
  const { table, agent } = setUp();
  const first = await table.start({ ...spec, tag: "same" });
  const second = await table.start({ ...spec, tag: "same" });
  agent.processes[1]?.exit();
  await all(second.events);
  expect((await table.list()).map(({ pid }) => pid)).toEqual([first.process.pid]);
  expect((await table.find({ tag: "same" })).pid).toBe(first.process.pid);
});

test("processes of an earlier daemon are adopted from the agent's list", async () => {
  const { table, agent, last } = setUp();
  agent.listed = [{ pid: 7, command: "sleep", args: ["9"], envs: { A: "1" }, tag: "old", terminal: false }];
  const [adopted] = await table.list();
  expect(adopted?.pid).toBe(7);
  expect(adopted?.description).toMatchObject({ command: "sleep", tag: "old", envs: { A: "1" } });
  const events = (await table.find({ tag: "old" })).subscribe();
  last().emit("still here");
  last().exit();
  expect(await all(events)).toEqual(["stdout still here", "end 0"]);
  expect(agent.attached).toEqual([7]);
});

test("a process that is just being started is not adopted", async () => {
  const { table, agent } = setUp();
  let open = () => {};
  agent.execGate = new Promise((resolve) => {
    open = resolve;
  });
  const starting = table.start(spec);
  agent.listed = [{ pid: 100, command: "sh", args: [], envs: {}, terminal: false }];
  const listing = table.list();
  await turns();
  open();
  await starting;
  expect((await listing).map(({ pid }) => pid)).toEqual([100]);
  expect(agent.attached).toEqual([]);
});

test("inputs go in one after another, and stdin closes after them", async () => {
  const { table, last } = setUp();
  const { process } = await table.start(spec);
  let open = () => {};
  last().writeGate = new Promise((resolve) => {
    open = resolve;
  });
  const writes = [process.write("stdin", Buffer.from("1")), process.write("stdin", Buffer.from("2"))];
  const closing = process.closeStdin();
  await turns();
  expect(last().stdinClosed).toBe(false);
  open();
  await Promise.all([...writes, closing]);
  expect(last().written).toEqual(["1", "2"]);
  expect(last().stdinClosed).toBe(true);
  await expect(process.write("stdin", Buffer.from("3"))).rejects.toThrow(
    "error writing to stdin: stdin not enabled or closed",
  );
});

test("input of the wrong kind is refused, and so is too much of the right kind", async () => {
  const { table, last } = setUp();
  const { process } = await table.start({ ...spec, stdin: false });
  await expect(process.write("stdin", Buffer.from("x"))).rejects.toMatchObject({ code: "internal" });
  await expect(process.write("terminal", Buffer.from("x"))).rejects.toMatchObject({ code: "internal" });
  expect(() => process.resize({ columns: 1, rows: 1 })).toThrow(DomainError);
  const reader = await table.start(spec);
  last().writeGate = new Promise(() => {});
  void reader.process.write("stdin", Buffer.alloc(20 * 1024 * 1024));
  await expect(reader.process.write("stdin", Buffer.alloc(20 * 1024 * 1024))).rejects.toMatchObject({
    code: "capacity_exhausted",
  });
});

test("a process is killed when its time is up, and its timer ends with it", async () => {
  const { table, agent, clock, last } = setUp();
  const { process } = await table.start(spec, { timeoutMs: 5_000 });
  await clock.advance(5_000);
  expect(agent.signals).toEqual([{ pid: process.pid, signal: 9 }]);
  const { events } = await table.start(spec, { timeoutMs: 5_000 });
  last().exit();
  await all(events);
  await turns();
  expect(clock.sleeperCount).toBe(0);
});

test("the time of a process begins when it is asked for, not when it runs at last", async () => {
  const { table, agent, clock } = setUp();
  let open = () => {};
  agent.execGate = new Promise((resolve) => {
    open = resolve;
  });
  const starting = table.start(spec, { timeoutMs: 5_000 });
  await clock.advance(2_000);
  open();
  const { process } = await starting;
  await clock.advance(3_000);
  expect(agent.signals).toEqual([{ pid: process.pid, signal: 9 }]);
});

test("a kill is answered when the process has ended, or after a while when a descendant holds its output open", async () => {
  const { table, clock, last } = setUp();
  const { process } = await table.start(spec);
  let answered = false;
  const killed = table.signal({ pid: process.pid }, 9).then(() => {
    answered = true;
  });
  await turns();
  expect(answered).toBe(false);
  last().exit({ exitCode: -1, exited: false, signal: 9 });
  await killed;
  await expect(table.signal({ pid: process.pid }, 9)).rejects.toMatchObject({ code: "not_found" });
  expect(clock.sleeperCount).toBe(0);

  const held = await table.start(spec);
  const sent = table.signal({ pid: held.process.pid }, 9);
  await turns();
  await clock.advance(500);
  await sent;
  expect(held.process.state.at).toBe("running");
});

test("samples are taken of the start, the first output, and the first command after a restore alone", async () => {
  const { table, last, samples } = setUp();
  await table.start({ ...spec, terminal: { columns: 80, rows: 24 } });
  expect(samples.map(([span]) => span)).toEqual(["command_start"]);
  const first = await table.start(spec);
  last().emit("x");
  last().emit("y");
  last().exit();
  await all(first.events);
  const second = await table.start(spec);
  last().emit("x");
  last().exit();
  await all(second.events);
  expect(samples.map(([span]) => span)).toEqual([
    "command_start",
    "command_start",
    "first_stdout_byte",
    "start.resume_to_first_stdout_ms",
    "command_start",
    "first_stdout_byte",
  ]);
});

test("the end of the session ends every subscription with its reason and lets the processes go", async () => {
  const { table, last, ending } = setUp();
  const { events } = await table.start(spec);
  ending.abort(new DomainError("not_found", "the sandbox was killed"));
  await expect(all(events)).rejects.toThrow("the sandbox was killed");
  expect(last().detached).toBe(true);
});

test("a process whose link broke is forgotten and adopted again", async () => {
  const { table, agent, last } = setUp();
  const { process, events } = await table.start(spec);
  last().breakLink();
  await expect(all(events)).rejects.toThrow("the link broke");
  await turns();
  agent.listed = [{ pid: process.pid, command: "sh", args: [], envs: {}, terminal: false }];
  expect((await table.find({ pid: process.pid })).state.at).toBe("running");
  expect(agent.attached).toEqual([process.pid]);
});
