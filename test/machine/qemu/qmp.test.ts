import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { QmpClient } from "../../../src/machine/qemu/qmp.ts";

const greeting = '{"QMP": {"version": {}, "capabilities": []}}\r\n';

let folder = "";
let server: Server | undefined;
const sockets = new Set<Socket>();

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "firkin-qmp-"));
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  await new Promise((resolve) => (server ? server.close(resolve) : resolve(undefined)));
  server = undefined;
  await rm(folder, { recursive: true });
});

interface Command {
  readonly execute: string;
  readonly id: number;
}
type Answer = (command: Command, socket: Socket) => void;

const ok: Answer = ({ id }, socket) => socket.write(`${JSON.stringify({ return: {}, id })}\r\n`);

/** A QEMU that greets, accepts the negotiation and leaves every other command to the test. */
async function serve(
  answer: Answer,
  greet: (socket: Socket) => void = (socket) => socket.write(greeting),
): Promise<string> {
  const path = join(folder, "qmp.sock");
  server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    greet(socket);
    let text = "";
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString();
      const lines = text.split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) {
        const command = JSON.parse(line) as Command;
        if (command.execute === "qmp_capabilities") ok(command, socket);
        else answer(command, socket);
      }
    });
  });
  await new Promise<void>((resolve) => server?.listen(path, resolve));
  return path;
}

test("answers are matched by id, whatever their order", async () => {
  const waiting: Command[] = [];
  const path = await serve((command, socket) => {
    waiting.push(command);
    if (waiting.length < 2) return;
    for (const { id, execute } of waiting.reverse()) socket.write(`${JSON.stringify({ return: execute, id })}\r\n`);
  });
  const qmp = await QmpClient.connect(path);
  expect(await Promise.all([qmp.execute("one"), qmp.execute("two")])).toEqual(["one", "two"]);
  qmp.close();
});

test("lines may come in any pieces, with events between", async () => {
  const path = await serve(({ id }, socket) => {
    const text = `{"event":"STOP","data":{"a":1}}\r\n\r\n${JSON.stringify({ return: "ünï", id })}\r\n{"event":"RESUME"}\r\n`;
    const bytes = Buffer.from(text);
    for (let at = 0; at < bytes.length; at += 3) socket.write(bytes.subarray(at, at + 3));
  });
  const qmp = await QmpClient.connect(path);
  const events: unknown[] = [];
  const both = new Promise<void>((resolve) => {
    qmp.onEvent((event, data) => {
      events.push([event, data]);
      if (event === "RESUME") resolve();
    });
  });
  expect(await qmp.execute("stop")).toBe("ünï");
  await both;
  expect(events).toEqual([
    ["STOP", { a: 1 }],
    ["RESUME", {}],
  ]);
  qmp.close();
});

test("QEMU's refusal keeps its words and the connection", async () => {
  const path = await serve(({ id, execute }, socket) => {
    if (execute === "good") socket.write(`${JSON.stringify({ return: 1, id })}\r\n`);
    else socket.write(`${JSON.stringify({ error: { class: "GenericError", desc: "no such device" }, id })}\r\n`);
  });
  const qmp = await QmpClient.connect(path);
  await expect(qmp.execute("bad")).rejects.toMatchObject({
    code: "machine_failed",
    message: "QEMU: no such device",
    details: { class: "GenericError" },
  });
  expect(await qmp.execute("good")).toBe(1);
  qmp.close();
});

test("a command without an answer ends at its deadline, and its late answer is dropped", async () => {
  let late: Command | undefined;
  const path = await serve((command, socket) => {
    if (!late) late = command;
    else {
      socket.write(`${JSON.stringify({ return: "late", id: late.id })}\r\n`);
      socket.write(`${JSON.stringify({ return: "now", id: command.id })}\r\n`);
    }
  });
  const qmp = await QmpClient.connect(path);
  await expect(qmp.execute("slow", {}, 20)).rejects.toMatchObject({ code: "deadline_exceeded" });
  expect(await qmp.execute("quick")).toBe("now");
  qmp.close();
});

test.each([
  ["no JSON", "hello\r\n"],
  ["JSON that is no message", '{"what": 1}\r\n'],
  ["an endless line", "x".repeat(2 ** 20 + 1)],
])("%s breaks the connection for every command", async (_, bytes) => {
  const path = await serve((_command, socket) => socket.write(bytes));
  const qmp = await QmpClient.connect(path);
  const [first, second] = await Promise.allSettled([qmp.execute("a"), qmp.execute("b")]);
  expect([first?.status, second?.status]).toEqual(["rejected", "rejected"]);
  expect((await qmp.closed).code).toBe("machine_failed");
  await expect(qmp.execute("c")).rejects.toMatchObject({ code: "machine_failed" });
});

test("when QEMU dies the commands that wait for an answer reject", async () => {
  const path = await serve((_command, socket) => socket.destroy());
  const qmp = await QmpClient.connect(path);
  await expect(qmp.execute("quit")).rejects.toThrow("closed the QMP connection");
});

test("a greeting that never comes ends at the deadline", async () => {
  const path = await serve(ok, () => {});
  await expect(QmpClient.connect(path, { deadlineMs: 30 })).rejects.toThrow("no greeting within 30 ms");
});

test("a socket at which nobody listens is given up at the deadline", async () => {
  await expect(QmpClient.connect(join(folder, "none.sock"), { deadlineMs: 20 })).rejects.toMatchObject({
    code: "machine_failed",
  });
});

test("connecting waits for a socket that appears later", async () => {
  const connecting = QmpClient.connect(join(folder, "qmp.sock"));
  await serve(ok);
  const qmp = await connecting;
  expect(await qmp.execute("cont")).toEqual({});
  qmp.close();
});

test("connecting can be given up", async () => {
  const path = await serve(ok, () => {});
  const stop = new AbortController();
  const connecting = QmpClient.connect(path, { signal: stop.signal });
  setTimeout(() => stop.abort(), 10);
  await expect(connecting).rejects.toThrow();
});
