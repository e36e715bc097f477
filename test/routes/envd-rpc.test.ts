import { once } from "node:events";
import { request } from "node:http";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { DomainError } from "../../src/errors.ts";
import { callUnary, envelope, openStream } from "../support/clients/connect-frames.ts";
import { type DataPlane, serveDataPlane, TestSession } from "../support/daemon/data-plane.ts";
import { ManualClock } from "../support/fakes/manual-clock.ts";
import { ScriptedAgent, type ScriptedProcess } from "../support/fakes/scripted-agent.ts";

const startPath = "process.Process/Start";
const command = { process: { cmd: "/bin/bash", args: ["-l", "-c", "true"] } };
const base64 = (text: string) => Buffer.from(text).toString("base64");

let agent: ScriptedAgent;
let clock: ManualClock;
let session: TestSession;
let plane: DataPlane;
const warnings: string[] = [];
process.on("warning", (warning) => warnings.push(String(warning)));

beforeEach(async () => {
  agent = new ScriptedAgent();
  clock = new ManualClock();
  session = new TestSession("iaasandbox", agent.asAgent(), clock);
  plane = await serveDataPlane([session], clock);
});

afterEach(async () => {
  await plane[Symbol.asyncDispose]();
  expect(plane.logged).toEqual([]);
  expect(warnings).toEqual([]);
});

const last = () => agent.processes.at(-1) as ScriptedProcess;
const until = async (condition: () => boolean) => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
};
const start = (headers: Record<string, string> = {}, signal?: AbortSignal) =>
  openStream(plane.url, startPath, command, { ...session.headers, ...headers }, signal);

describe("a process stream", () => {
  test("is start, output as it happens, end and an empty end-stream", async () => {
    const { status, frames } = await start();
    expect(status).toBe(200);
    expect(await frames.next()).toEqual({ flags: 0, json: { event: { start: { pid: 100 } } } });
    last().emit("hi\n");
    expect(await frames.next()).toEqual({ flags: 0, json: { event: { data: { stdout: base64("hi\n") } } } });
    last().emit("err", "stderr");
    expect(await frames.next()).toEqual({ flags: 0, json: { event: { data: { stderr: base64("err") } } } });
    last().exit();
    expect(await frames.next()).toEqual({
      flags: 0,
      json: { event: { end: { exited: true, status: "exit status 0" } } },
    });
    expect(await frames.next()).toEqual({ flags: 2, json: {} });
    expect(await frames.next()).toBeUndefined();
  });

  test("tells how the process ended", async () => {
    const failed = await start();
    last().exit({ exitCode: 7, exited: true });
    await failed.frames.next();
    expect((await failed.frames.next())?.json).toEqual({
      event: { end: { exitCode: 7, exited: true, status: "exit status 7", error: "exit status 7" } },
    });
    const killed = await start();
    last().exit({ exitCode: -1, exited: false, signal: 9 });
    await killed.frames.next();
    expect((await killed.frames.next())?.json).toEqual({
      event: { end: { exitCode: -1, status: "signal: killed", error: "signal: killed" } },
    });
  });

  test("asks the agent for exactly what the client asked", async () => {
    const message = {
      process: { cmd: "c", args: ["a"], envs: { K: "V" }, cwd: "/tmp" },
      pty: { size: { cols: 90, rows: 30 } },
      tag: "t",
      stdin: false,
      unknown_field: 1,
    };
    const authorization = `Basic ${base64("root:")}`;
    const { frames } = await openStream(plane.url, startPath, message, { ...session.headers, authorization });
    await frames.next();
    expect(agent.specs).toEqual([
      {
        command: "c",
        args: ["a"],
        envs: { K: "V" },
        cwd: "/tmp",
        user: "root",
        tag: "t",
        stdin: false,
        terminal: { columns: 90, rows: 30 },
      },
    ]);
  });

  test("carries keepalives while nothing happens, as often as the client asks", async () => {
    const { frames } = await start({ "keepalive-ping-interval": "50" });
    await frames.next();
    await until(() => clock.sleeperCount === 1);
    await clock.advance(49_000);
    last().emit("x");
    expect((await frames.next())?.json).toEqual({ event: { data: { stdout: base64("x") } } });
    await clock.advance(1_000);
    await clock.advance(49_000);
    expect((await frames.next())?.json).toEqual({ event: { keepalive: {} } });
  });

  test("ends with deadline_exceeded at the client's time-out, which kills the process", async () => {
    const { frames } = await start({ "connect-timeout-ms": "200" });
    await frames.next();
    expect(await frames.next()).toMatchObject({ flags: 2, json: { error: { code: "deadline_exceeded" } } });
    await clock.advance(200);
    expect(agent.signals).toEqual([{ pid: 100, signal: 9 }]);
  });

  test("ignores a time-out that no timer can hold", async () => {
    const { frames } = await start({ "connect-timeout-ms": "9999999999" });
    await frames.next();
    last().exit();
    expect((await frames.next())?.json).toMatchObject({ event: { end: { exited: true } } });
  });

  test("leaves the process alone when the client goes away, and takes its subscriber along", async () => {
    const gone = new AbortController();
    const { frames } = await start({}, gone.signal);
    await frames.next();
    const process = await session.processes.find({ pid: 100 });
    expect(process.subscriberCount).toBe(1);
    gone.abort();
    await until(() => process.subscriberCount === 0);
    expect(process.state.at).toBe("running");
    expect(last().detached).toBe(false);
    await until(() => clock.sleeperCount === 0);
  });

  test("makes the process wait for a slow reader, and lets it go on when the reader leaves", async () => {
    const gone = new AbortController();
    const { frames } = await start({}, gone.signal);
    await frames.next();
    const process = await session.processes.find({ pid: 100 });
    const chunkCount = 2_000;
    for (let i = 0; i < chunkCount; i++) last().emit(Buffer.alloc(32 * 1024));
    let taken = -1;
    while (taken !== last().taken) {
      taken = last().taken;
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    expect(taken).toBeLessThan(chunkCount);
    gone.abort();
    await until(() => process.subscriberCount === 0);
    // What nobody reads is taken at the unwanted pace.
    while (last().taken < chunkCount) await clock.advance(1_000);
  });

  test("50 at once are independent", async () => {
    const streams = await Promise.all(Array.from({ length: 50 }, () => start()));
    await Promise.all(streams.map(({ frames }) => frames.next()));
    agent.processes.forEach((process, index) => {
      process.emit(`n${index}`);
      process.exit({ exitCode: index, exited: true });
    });
    const outputs = await Promise.all(
      streams.map(async ({ frames }) => {
        const rest: string[] = [];
        for await (const { json } of frames) rest.push(JSON.stringify(json));
        return rest.length;
      }),
    );
    expect(outputs).toEqual(Array(50).fill(3));
  });

  test("is cut without a clean end when the sandbox is killed; health then says there is none", async () => {
    const { frames } = await start();
    await frames.next();
    session.kill(new DomainError("not_found", "the sandbox was killed"));
    await expect(frames.next()).rejects.toThrow("terminated");
    const health = await fetch(`${plane.url}/health`, { headers: session.headers });
    expect(health.status).toBe(502);
    expect(await health.json()).toEqual({ sandboxId: "iaasandbox", message: "The sandbox was not found", code: 502 });
  });

  test("ends with unavailable when only the link broke", async () => {
    const { frames } = await start();
    await frames.next();
    last().breakLink();
    expect(await frames.next()).toMatchObject({ flags: 2, json: { error: { code: "unavailable" } } });
  });
});

describe("Connect", () => {
  const connect = (selector: object) =>
    openStream(plane.url, "process.Process/Connect", { process: selector }, session.headers);

  test("joins by pid and by tag; late ones still learn the end", async () => {
    const { frames } = await openStream(plane.url, startPath, { ...command, tag: "job" }, session.headers);
    await frames.next();
    const joined = await connect({ tag: "job" });
    expect((await joined.frames.next())?.json).toEqual({ event: { start: { pid: 100 } } });
    last().emit("x");
    last().exit();
    expect((await joined.frames.next())?.json).toEqual({ event: { data: { stdout: base64("x") } } });
    for await (const _ of frames);
    const late = await connect({ pid: 100 });
    expect((await late.frames.next())?.json).toEqual({ event: { start: { pid: 100 } } });
    expect((await late.frames.next())?.json).toMatchObject({ event: { end: { status: "exit status 0" } } });
  });

  test("to an unknown process is not_found in the end-stream", async () => {
    const { status, frames } = await connect({ pid: 4242 });
    expect(status).toBe(200);
    expect(await frames.next()).toEqual({
      flags: 2,
      json: { error: { code: "not_found", message: "process with pid 4242 not found" } },
    });
  });
});

describe("the unary methods", () => {
  const call = (method: string, message: unknown) => callUnary(plane.url, method, message, session.headers);

  test("list, input, close, signal, resize", async () => {
    const { frames } = await openStream(plane.url, startPath, { ...command, tag: "t" }, session.headers);
    await frames.next();
    expect((await call("process.Process/List", {})).json).toEqual({
      processes: [{ config: { cmd: "/bin/bash", args: ["-l", "-c", "true"] }, pid: 100, tag: "t" }],
    });
    const selector = { process: { pid: 100 } };
    expect(await call("process.Process/SendInput", { ...selector, input: { stdin: base64("in") } })).toEqual({
      status: 200,
      json: {},
    });
    expect(last().written).toEqual(["in"]);
    expect((await call("process.Process/CloseStdin", selector)).status).toBe(200);
    expect((await call("process.Process/CloseStdin", selector)).status).toBe(200);
    expect(await call("process.Process/SendInput", { ...selector, input: { stdin: base64("in") } })).toEqual({
      status: 500,
      json: { code: "internal", message: "error writing to stdin: stdin not enabled or closed" },
    });
    expect((await call("process.Process/SendSignal", { ...selector, signal: "SIGNAL_SIGTERM" })).status).toBe(200);
    expect(agent.signals).toEqual([{ pid: 100, signal: 15 }]);
    expect(await call("process.Process/SendSignal", { ...selector, signal: 2 })).toMatchObject({
      status: 501,
      json: { code: "unimplemented" },
    });
    expect((await call("process.Process/Update", { ...selector, pty: { size: { cols: 1, rows: 1 } } })).status).toBe(
      500,
    );
  });

  test("of a terminal", async () => {
    const { frames } = await openStream(plane.url, startPath, { ...command, pty: {} }, session.headers);
    await frames.next();
    const selector = { process: { pid: 100 } };
    expect((await call("process.Process/Update", { ...selector, pty: { size: { cols: 9, rows: 8 } } })).status).toBe(
      200,
    );
    expect(last().size).toEqual({ columns: 9, rows: 8 });
    await call("process.Process/SendInput", { ...selector, input: { pty: base64("ls\r") } });
    expect(last().written).toEqual(["ls\r"]);
    expect((await call("process.Process/CloseStdin", selector)).json).toMatchObject({ code: "unknown" });
    last().emit("$ ", "terminal");
    expect((await frames.next())?.json).toEqual({ event: { data: { pty: base64("$ ") } } });
  });

  test("an unknown process is not_found, an unselected one invalid", async () => {
    expect(await call("process.Process/SendSignal", { process: { pid: 5 }, signal: 9 })).toEqual({
      status: 404,
      json: { code: "not_found", message: "process with pid 5 not found" },
    });
    expect((await call("process.Process/CloseStdin", {})).json).toMatchObject({ code: "invalid_argument" });
  });
});

describe("bad input", () => {
  test("an unknown method, a wrong content type, a wrong HTTP method", async () => {
    expect(await callUnary(plane.url, "process.Process/Nope", {}, session.headers)).toMatchObject({ status: 404 });
    const post = (type: string) =>
      fetch(`${plane.url}/${startPath}`, {
        method: "POST",
        headers: { ...session.headers, "content-type": type },
        body: "x",
      });
    expect((await post("text/plain")).status).toBe(415);
    expect((await post("application/json")).status).toBe(415);
    const get = await fetch(`${plane.url}/${startPath}`, {
      headers: { ...session.headers, "content-type": "application/connect+json" },
    });
    expect([405, 415]).toContain(get.status);
  });

  test.each([
    ["broken JSON", envelope("{nope"), "invalid_argument"],
    ["a wrong type", envelope({ process: 5 }), "invalid_argument"],
    ["no message", Buffer.alloc(0), "unimplemented"],
    ["half an envelope", envelope(command).subarray(0, 9), "invalid_argument"],
    ["half a head", Buffer.from([0, 0, 0]), "invalid_argument"],
    [
      "a huge frame",
      Buffer.concat([Buffer.from([0, 0xff, 0xff, 0xff, 0xff]), Buffer.alloc(100)]),
      "resource_exhausted",
    ],
    ["a compressed frame nobody announced", envelope(command, 1), "internal"],
    ["two messages", Buffer.concat([envelope(command), envelope(command)]), "unimplemented"],
    ["no command", envelope({ process: {} }), "invalid_argument"],
  ])("%s ends the stream with an error", async (_name, body, code) => {
    const { status, frames } = await openStream(plane.url, startPath, body, session.headers);
    expect(status).toBe(200);
    expect(await frames.next()).toMatchObject({ flags: 2, json: { error: { code } } });
  });

  test("a compression that is not offered is refused by name", async () => {
    const { frames } = await start({ "connect-content-encoding": "gzip" });
    expect(await frames.next()).toMatchObject({ flags: 2, json: { error: { code: "unimplemented" } } });
  });

  test("broken unary messages", async () => {
    const call = (body: string) => callUnary(plane.url, "process.Process/SendInput", body, session.headers);
    expect(await call("{")).toMatchObject({ status: 400, json: { code: "invalid_argument" } });
    expect(await call("[]")).toMatchObject({ status: 400, json: { code: "invalid_argument" } });
    expect(await call('{"input":{"stdin":"***"}}')).toMatchObject({ status: 400 });
    expect((await call(JSON.stringify({ input: { stdin: "A".repeat(33 * 1024 * 1024) } }))).json).toMatchObject({
      code: "resource_exhausted",
    });
  });
});

describe("access", () => {
  test("is refused without the token, with an answer in JSON", async () => {
    const { "x-access-token": _, ...headers } = session.headers;
    for (const wrong of [headers, { ...headers, "x-access-token": "wrong" }]) {
      expect(await callUnary(plane.url, "process.Process/List", {}, wrong)).toEqual({
        status: 401,
        json: {
          code: 401,
          message: "unauthorized access, please provide a valid access token or method signing if supported",
        },
      });
    }
  });

  test("an unknown sandbox is a 502 on every route", async () => {
    const headers = { ...session.headers, "e2b-sandbox-id": "iaanobody" };
    const answer = { sandboxId: "iaanobody", message: "The sandbox was not found", code: 502 };
    expect(await callUnary(plane.url, "process.Process/List", {}, headers)).toEqual({ status: 502, json: answer });
    for (const path of ["/health", "/files?path=x", "/metrics", "/envs"]) {
      const response = await fetch(`${plane.url}${path}`, { headers });
      expect(response.status).toBe(502);
      expect(response.headers.get("content-type")).toBe("application/json; charset=utf-8");
      expect(await response.json()).toEqual(answer);
    }
  });

  test("a token alone names its sandbox, and so does the host", async () => {
    const byToken = { "x-access-token": session.accessToken };
    expect((await callUnary(plane.url, "process.Process/List", {}, byToken)).status).toBe(200);
    const host = `49983-iaasandbox.localhost:${plane.port}`;
    const asked = request(`${plane.url}/envs`, { headers: { host, ...byToken } });
    asked.end();
    const [response] = await once(asked, "response");
    expect(response.resume().statusCode).toBe(200);
  });

  test("is open to web pages of any origin: preflight and exposed headers", async () => {
    const preflight = await fetch(`${plane.url}/${startPath}`, {
      method: "OPTIONS",
      headers: {
        origin: "https://example.com",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-access-token,content-type",
      },
    });
    expect(preflight.status).toBe(204);
    expect(preflight.headers.get("access-control-allow-origin")).toBe("*");
    expect(preflight.headers.get("access-control-allow-headers")).toBe("x-access-token,content-type");
    const response = await fetch(`${plane.url}/process.Process/List`, {
      method: "POST",
      headers: { ...session.headers, "content-type": "application/json" },
      body: "{}",
    });
    expect(response.headers.get("access-control-allow-origin")).toBe("*");
  });
});
