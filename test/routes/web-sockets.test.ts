/** The WebSockets to processes, over a scripted guest: access, messages, slow and broken connections. */
import { setImmediate as turn } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { tapeBytes } from "../../src/runtime/processes/output-tape.ts";
import { SocketClient } from "../support/clients/socket-client.ts";
import { apiKey, type ControlPlane, openControlPlane } from "../support/daemon/control-plane.ts";
import { TestSession } from "../support/daemon/data-plane.ts";
import { FakeRuntime } from "../support/fakes/fake-runtime.ts";
import { closedGate } from "../support/fakes/gate.ts";
import { ManualClock } from "../support/fakes/manual-clock.ts";
import { ScriptedAgent, type ScriptedProcess } from "../support/fakes/scripted-agent.ts";

const id = "iaasandbox";
const start = { type: "start", command: "sh", args: ["-c", "x"] };
const key = { headers: { "x-api-key": apiKey } };

let agent: ScriptedAgent;
let clock: ManualClock;
let session: TestSession;
let plane: ControlPlane;
let runtime: FakeRuntime;
let url: string;
const clients: SocketClient[] = [];

beforeEach(async () => {
  agent = new ScriptedAgent();
  clock = new ManualClock();
  session = new TestSession(id, agent.asAgent(), clock);
  runtime = new FakeRuntime();
  runtime.findSession = (asked) => (asked === id && !session.ended.aborted ? session : undefined);
  plane = openControlPlane({ runtime, clock });
  url = await plane.app.listen({ host: "127.0.0.1", port: 0 });
});
afterEach(async () => {
  for (const client of clients.splice(0)) client.drop();
  await plane[Symbol.asyncDispose]();
});

async function open(path = "processes", options: object = key): Promise<SocketClient> {
  const client = await SocketClient.open(`${url}/sandboxes/${id}/${path}`, options);
  clients.push(client);
  return client;
}

const refusal = (path: string, options: object = {}) => open(path, options).then(() => "opened", String);
const last = () => agent.processes.at(-1) as ScriptedProcess;

async function started(path = "processes", first: object = start) {
  const client = await open(path);
  client.say(first);
  return { client, said: await client.next(), process: last() };
}

describe("access to a WebSocket", () => {
  test("needs the key", async () => {
    await open("processes", { headers: { authorization: `Bearer ${apiKey}` } });
    await open("terminal");
    expect(await refusal("processes")).toContain("401");
    expect(await refusal("terminal", { headers: { "x-api-key": "e2b_wrong" } })).toContain("401");
  });

  test("a ticket opens one connection to its sandbox, once, for a short time", async () => {
    const ask = () =>
      plane.call("POST", `/sandboxes/${id}/ticket`).then(({ body }) => (body as { ticket: string }).ticket);
    const ticket = await ask();
    await open(`processes?ticket=${ticket}`, {});
    expect(await refusal(`processes?ticket=${ticket}`)).toContain("401");
    const late = await ask();
    await clock.advance(31_000);
    expect(await refusal(`processes?ticket=${late}`)).toContain("401");
    const elsewhere = await SocketClient.open(`${url}/sandboxes/iaaother/processes?ticket=${await ask()}`).catch(
      String,
    );
    expect(elsewhere).toContain("401");
  });

  test("a ticket needs the key and a sandbox", async () => {
    expect((await plane.call("POST", `/sandboxes/${id}/ticket`, undefined, { "x-api-key": undefined })).status).toBe(
      401,
    );
    expect((await plane.call("POST", "/sandboxes/iaaother/ticket")).status).toBe(404);
  });

  test("is refused to a page of another origin, even with the key", async () => {
    const { port, host } = new URL(url);
    for (const origin of [
      "http://evil.example",
      `http://localhost:${port}`,
      "null",
      `http://3000-${id}.localhost:${port}`,
    ]) {
      expect(await refusal("processes", { ...key, origin })).toContain("403");
    }
    await open("processes", { ...key, origin: `http://${host}` });
    expect(await refusal("processes", { headers: { ...key.headers, host: "evil.example" } })).toContain("421");
  });

  test("needs a running sandbox", async () => {
    expect(await SocketClient.open(`${url}/sandboxes/iaaother/processes`, key).catch(String)).toContain("404");
    const { body } = await plane.call("POST", "/v2/sandboxes", { templateID: "base" });
    const { sandboxID } = body as { sandboxID: string };
    runtime.pause(sandboxID);
    expect(await SocketClient.open(`${url}/sandboxes/${sandboxID}/processes`, key).catch(String)).toContain("409");
  });

  test("a plain request gets a 426, and an upgrade of another path is refused", async () => {
    const answer = await plane.call("GET", `/sandboxes/${id}/terminal`);
    expect([answer.status, answer.headers.upgrade]).toEqual([426, "websocket"]);
    expect(await SocketClient.open(`${url}/v2/sandboxes`, key).catch(String)).toContain("400");
    expect(await SocketClient.open(`${url}/nothing`, key).catch(String)).toContain("400");
  });

  test("a sandbox has 64 WebSockets at most", async () => {
    for (let n = 0; n < 64; n++) await open();
    expect(await refusal("processes", key)).toContain("429");
    clients.pop()?.drop();
    await expect.poll(() => refusal("processes", key)).toBe("opened");
  });
});

describe("a process", () => {
  test("is started, reads and writes, takes signals, and reports its end", async () => {
    const { client, said, process } = await started("processes", {
      ...start,
      cwd: "/",
      user: "root",
      envs: { A: "1" },
    });
    expect(said).toEqual({ type: "started", pid: 100, stream: expect.any(String), offset: 0 });
    expect(agent.specs).toEqual([
      { command: "sh", args: ["-c", "x"], envs: { A: "1" }, cwd: "/", user: "root", stdin: true },
    ]);
    process.emit("out");
    process.emit("err", "stderr");
    await client.sees("err", "stderr");
    expect(client.output.stdout).toBe("out");
    client.input("typed");
    client.say({ type: "signal", signal: "SIGINT" });
    client.say({ type: "closeStdin" });
    await expect.poll(() => process.stdinClosed).toBe(true);
    expect([process.written, agent.signals]).toEqual([["typed"], [{ pid: 100, signal: 2 }]]);
    process.exit({ exitCode: 3, exited: true });
    expect(await client.next()).toEqual({ type: "end", exitCode: 3, exited: true });
    expect(await client.closed).toEqual({ code: 1000, reason: "the process has ended" });
  });

  test("gets what its client sent while it was being started", async () => {
    const gate = closedGate();
    agent.execGate = gate.opened;
    const client = await open();
    client.say(start);
    client.input("a");
    client.input("b");
    client.say({ type: "signal", signal: "SIGTERM" });
    await expect.poll(() => agent.processes).toHaveLength(1);
    gate.open();
    await expect.poll(() => agent.signals).toHaveLength(1);
    expect(last().written).toEqual(["a", "b"]);
  });

  test("outlives its connection", async () => {
    const { client, process } = await started();
    await client.close();
    await turn();
    expect([agent.signals, process.detached]).toEqual([[], false]);
  });

  test("answers a message that it refuses, and the connection goes on", async () => {
    const { client, process } = await started();
    client.say({ type: "resize", columns: 80, rows: 24 });
    expect(await client.next()).toMatchObject({ type: "error", code: "internal" });
    process.emit("still here");
    await client.sees("still here");
  });

  test("reports the reason when its sandbox ends", async () => {
    const { client } = await started();
    const waiting = await open();
    session.kill(new DomainError("not_found", "The sandbox was killed"));
    expect(await client.next()).toEqual({ type: "error", code: "not_found", message: "The sandbox was killed" });
    expect(await client.closed).toEqual({ code: 4404, reason: "The sandbox was killed" });
    expect((await waiting.closed).code).toBe(4404);
  });
});

describe("a terminal", () => {
  test("is a login shell of the size that was asked for, and can be resized", async () => {
    const { client, process } = await started("terminal", { type: "start", columns: 100, rows: 30 });
    expect(agent.specs[0]).toMatchObject({
      command: "/bin/bash",
      args: ["-i", "-l"],
      envs: { TERM: "xterm-256color" },
      terminal: { columns: 100, rows: 30 },
    });
    client.input("ls\r");
    client.say({ type: "resize", columns: 120, rows: 40 });
    await expect.poll(() => process.size).toEqual({ columns: 120, rows: 40 });
    process.emit("\u001b[1mfile", "terminal");
    await client.sees("file", "terminal");
    expect(process.written).toEqual(["ls\r"]);
  });

  test("is hung up when its window is closed, and kept when the connection breaks", async () => {
    const first = { type: "start", columns: 80, rows: 24 };
    const broken = await started("terminal", first);
    broken.client.drop();
    await broken.client.closed;
    const closed = await started("terminal", first);
    await closed.client.close();
    await expect.poll(() => agent.signals).toEqual([{ pid: 101, signal: 1 }]);
  });

  test("is not hung up while another client is attached", async () => {
    const { client } = await started("terminal", { type: "start", columns: 80, rows: 24 });
    const other = await open("terminal");
    other.say({ type: "attach", pid: 100 });
    expect((await other.next()).type).toBe("attached");
    await client.close();
    other.input("x");
    await expect.poll(() => last().written).toEqual(["x"]);
    expect(agent.signals).toEqual([]);
  });

  test("a process without one is not attached to as a terminal", async () => {
    await started();
    const client = await open("terminal");
    client.say({ type: "attach", pid: 100 });
    expect((await client.closed).code).toBe(4400);
  });
});

describe("a wrong message", () => {
  const first: [string, string | Buffer, RegExp][] = [
    ["text that is no JSON", "{", /must be JSON/],
    ["no object", "7", /message/],
    ["bytes", Buffer.from("x"), /start or attach/],
    ["an unknown type", '{"type":"dance"}', /type/],
    ["a later message", '{"type":"closeStdin"}', /type/],
    ["no command", '{"type":"start"}', /command/],
    ["a field that nobody knows", '{"type":"start","command":"a","shell":true}', /shell/],
    ["a NUL", '{"type":"start","command":"a\\u0000b"}', /NUL/],
    ["a pid that is none", '{"type":"attach","pid":-1}', /pid/],
  ];
  test.each(first)("as a first message: %s", async (_what, message, reason) => {
    const client = await open();
    client.socket.send(message);
    expect(await client.closed).toEqual({ code: 4400, reason: expect.stringMatching(reason) });
    expect(agent.processes).toEqual([]);
  });

  test("ends the connection, not the process, when it comes later", async () => {
    const { client, process } = await started();
    client.say({ type: "signal", signal: "SIGPARTY" });
    expect((await client.closed).code).toBe(4400);
    expect(process.detached).toBe(false);
  });

  test("names an unknown process", async () => {
    const client = await open();
    client.say({ type: "attach", pid: 7 });
    expect(await client.closed).toEqual({ code: 4404, reason: "process with pid 7 not found" });
  });

  test("is too long", async () => {
    const { client, process } = await started();
    client.input("x".repeat(128 * 1024 + 1));
    expect((await client.closed).code).toBe(1009);
    expect(process.written).toEqual([]);
    await expect.poll(async () => (await session.processes.find({ pid: 100 })).subscriberCount).toBe(0);
  });

  test("never comes, or its client has gone", async () => {
    const mute = await open();
    const { client: gone } = await started();
    gone.socket.pause();
    await clock.advance(30_000);
    await turn();
    await clock.advance(30_000);
    expect((await mute.closed).code).toBe(4408);
    gone.socket.resume();
    expect((await gone.closed).code).toBe(1006);
  });
});

describe("a slow client", () => {
  const chunk = Buffer.alloc(32 * 1024, "x");
  const chunks = 2_000;

  test("makes its process wait, and no other", async () => {
    const { client: slow, process } = await started();
    const { client: fast, process: other } = await started();
    slow.socket.pause();
    for (let n = 0; n < chunks; n++) process.emit(chunk);
    other.emit("quick");
    await fast.sees("quick");
    await settled(() => process.taken);
    expect(process.taken).toBeLessThan(chunks / 2);
    slow.socket.resume();
    process.exit();
    expect((await slow.next()).type).toBe("end");
    expect(slow.outputBytes).toBe(chunks * chunk.byteLength);
  });

  test("that cannot stop reading asks for a pause, and goes on later", async () => {
    const { client, process } = await started();
    client.say({ type: "pause" });
    client.input("after the pause");
    await expect.poll(() => process.written).toHaveLength(1);
    for (let n = 0; n < chunks; n++) process.emit(chunk);
    await settled(() => process.taken);
    expect([process.taken < 100, client.outputBytes]).toEqual([true, 0]);
    client.say({ type: "resume" });
    process.exit();
    expect((await client.next()).type).toBe("end");
    expect(client.outputBytes).toBe(chunks * chunk.byteLength);
  });

  test("that leaves lets its process go on", async () => {
    const { client, process } = await started();
    client.socket.pause();
    for (let n = 0; n < chunks; n++) process.emit(chunk);
    await settled(() => process.taken);
    client.drop();
    await expect.poll(() => process.taken).toBe(chunks);
  });

  test("waits for a process that reads slowly", async () => {
    const { client, process } = await started();
    const gate = closedGate();
    process.writeGate = gate.opened;
    const sent = 1_000;
    for (let n = 0; n < sent; n++) client.input("x".repeat(32 * 1024));
    await settled(() => client.socket.bufferedAmount);
    expect(client.socket.bufferedAmount).toBeGreaterThan(16 * 1024 * 1024);
    gate.open();
    await expect.poll(() => process.written).toHaveLength(sent);
  });

  /** Waits until a number does not change any more. */
  async function settled(read: () => number): Promise<void> {
    for (let before = -1; before !== read(); ) {
      before = read();
      for (let n = 0; n < 50; n++) await turn();
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
});

describe("after a drop", () => {
  async function resumed(offset: number, stream: unknown) {
    const client = await open();
    client.say({ type: "attach", pid: 100, resume: { stream, offset } });
    return client;
  }

  test("goes on where it was, to the byte", async () => {
    const { client, said, process } = await started();
    process.emit("one ");
    process.emit("two ", "stderr");
    await client.sees("two ", "stderr");
    client.drop();
    process.emit("three ");
    await expect.poll(() => process.taken).toBe(3);
    const again = await resumed(6, said.stream);
    expect(await again.next()).toEqual({ type: "attached", pid: 100, stream: said.stream, offset: 6 });
    process.emit("four");
    await again.sees("three four");
    expect(again.output.stderr).toBe("o ");
  });

  test("the end too", async () => {
    const { client, said, process } = await started();
    client.drop();
    process.emit("rest");
    process.exit();
    await expect.poll(async () => (await session.processes.find({ pid: 100 })).state.at).toBe("ended");
    const again = await resumed(0, said.stream);
    expect((await again.next()).type).toBe("attached");
    expect((await again.next()).type).toBe("end");
    expect(again.output.stdout).toBe("rest");
  });

  test("says what was lost when too much was put out meanwhile", async () => {
    const { client, said, process } = await started();
    client.drop();
    await client.closed;
    for (let n = 0; n < 20; n++) process.emit(Buffer.alloc(32 * 1024, String.fromCharCode(97 + n)));
    await expect.poll(() => process.taken).toBe(20);
    const again = await resumed(100, said.stream);
    const { offset } = await again.next();
    expect(await again.next()).toEqual({ type: "gap", from: 100, to: offset });
    await again.sees("t");
    expect(Number(offset) + again.outputBytes).toBe(20 * 32 * 1024);
    expect(again.outputBytes).toBeGreaterThan(tapeBytes / 2);
  });

  test("says so when it is another stream: nobody knows what was lost", async () => {
    await started();
    const again = await resumed(100, "of-another-daemon");
    expect((await again.next()).type).toBe("attached");
    expect(await again.next()).toEqual({ type: "gap", from: 100, to: null });
  });

  test("an offset that the process has not got to is refused", async () => {
    const { said } = await started();
    expect((await (await resumed(1, said.stream)).closed).code).toBe(4400);
  });
});

test("a daemon that stops says so", async () => {
  const { client } = await started();
  await plane.app.close();
  expect(await client.closed).toEqual({ code: 1001, reason: "the daemon stops" });
});
