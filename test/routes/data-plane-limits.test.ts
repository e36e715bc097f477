/** The limits of the data plane: a hostile client takes a bounded amount of the daemon, and leaves nothing behind. */
import { EventEmitter, once } from "node:events";
import { readdir, stat, symlink, writeFile } from "node:fs/promises";
import type { IncomingMessage } from "node:http";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { createGzip, gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { dropIdleBody } from "../../routes/data/idle-body.ts";
import { maxRequestsPerSandbox } from "../../routes/data/request-limit.ts";
import { systemClock } from "../../src/clock.ts";
import { callUnary, envelope, openStream } from "../support/clients/connect-frames.ts";
import { type DataPlane, serveDataPlane, TestSession } from "../support/daemon/data-plane.ts";
import { ScriptedAgent } from "../support/fakes/scripted-agent.ts";
import { type LocalSandbox, startLocalSandbox } from "../support/guest/local-session.ts";

const mebibyte = 2 ** 20;
const command = { process: { cmd: "/bin/true" } };

/** The head of a request to a sandbox, as bytes. */
function head(session: TestSession, line: string, headers: Record<string, string>): string {
  const all = { host: "localhost", ...session.headers, ...headers };
  return `${line} HTTP/1.1\r\n${Object.entries(all)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join("")}\r\n`;
}

function open(plane: DataPlane, bytes: string | Uint8Array): Socket {
  const socket = connect(plane.port, "127.0.0.1");
  // A reset is an end like any other here.
  socket.on("error", () => {});
  socket.write(bytes);
  return socket;
}

async function readToEnd(socket: Socket): Promise<string> {
  const chunks: Buffer[] = [];
  socket.on("data", (chunk) => chunks.push(chunk));
  if (!socket.closed) await once(socket, "close");
  return Buffer.concat(chunks).toString("latin1");
}

describe("requests and messages", () => {
  let agent: ScriptedAgent;
  let session: TestSession;
  let plane: DataPlane;

  beforeEach(async () => {
    agent = new ScriptedAgent();
    session = new TestSession("iaasandbox", agent.asAgent());
    plane = await serveDataPlane([session]);
  });
  afterEach(async () => {
    await plane[Symbol.asyncDispose]();
    expect(plane.logged).toEqual([]);
  });

  test("one sandbox serves 1,000 requests at a time; one more is refused, and other sandboxes are not held up", async () => {
    const other = new TestSession("iaaother", new ScriptedAgent().asAgent());
    await using shared = await serveDataPlane([session, other]);
    const body = envelope(command);
    const bytes = Buffer.concat([
      Buffer.from(
        head(session, "POST /process.Process/Start", {
          "content-type": "application/connect+json",
          "content-length": String(body.length),
        }),
      ),
      body,
    ]);
    const sockets: Socket[] = [];
    // A few at a time: more than wait to be accepted would be reset.
    while (sockets.length < maxRequestsPerSandbox) {
      const some = Array.from({ length: Math.min(64, maxRequestsPerSandbox - sockets.length) }, () =>
        open(shared, bytes),
      );
      await Promise.all(some.map((socket) => once(socket, "data")));
      sockets.push(...some);
    }
    const refused = await callUnary(shared.url, "process.Process/List", {}, session.headers);
    expect(refused).toEqual({
      status: 429,
      json: {
        sandboxId: "iaasandbox",
        message: expect.stringContaining("Try again"),
        connectionLimit: maxRequestsPerSandbox,
        code: 429,
      },
    });
    expect((await callUnary(shared.url, "process.Process/List", {}, other.headers)).status).toBe(200);
    for (const socket of sockets) socket.destroy();
    await expect
      .poll(async () => (await callUnary(shared.url, "process.Process/List", {}, session.headers)).status)
      .toBe(200);
  });

  test("messages that never end take a bounded amount of memory, and give it back", async () => {
    const size = 30 * mebibyte;
    const input = head(session, "POST /process.Process/SendInput", {
      "content-type": "application/json",
      "content-length": String(size + 1),
    });
    const start = process.memoryUsage().rss;
    const sockets = Array.from({ length: 4 }, () => {
      const socket = open(plane, input);
      socket.write(Buffer.alloc(size, 32));
      return socket;
    });
    const first = await Promise.any(sockets.map(async (socket) => String((await once(socket, "data"))[0])));
    expect(first).toMatch(/^HTTP\/1\.1 429 /);
    expect(first).toContain("resource_exhausted");
    expect(process.memoryUsage().rss - start).toBeLessThan(400 * mebibyte);
    for (const socket of sockets) socket.destroy();
    const whole = { process: { pid: 5 }, input: { stdin: "A".repeat(20 * mebibyte) } };
    await expect
      .poll(async () => (await callUnary(plane.url, "process.Process/SendInput", whole, session.headers)).json.code)
      .toBe("not_found");
  });

  test("a long stream of input is not held against the sandbox", async () => {
    await openStream(plane.url, "process.Process/Start", { ...command, stdin: true }, session.headers);
    await expect.poll(() => agent.processes.length).toBe(1);
    const messages = async function* () {
      yield envelope({ start: { process: { pid: 100 } } });
      for (let n = 0; n < 100; n++) yield envelope({ data: { input: { stdin: "A".repeat(mebibyte) } } });
    };
    const response = await fetch(`${plane.url}/process.Process/StreamInput`, {
      method: "POST",
      headers: { ...session.headers, "content-type": "application/connect+json" },
      body: ReadableStream.from(messages()),
      duplex: "half",
    } as RequestInit);
    expect(await response.text()).not.toContain("error");
    expect(agent.processes[0]?.written).toHaveLength(100);
  });

  test("a compressed message is refused before anything is unpacked", async () => {
    const bomb = new Uint8Array(gzipSync(Buffer.alloc(64 * mebibyte)));
    const response = await fetch(`${plane.url}/process.Process/SendInput`, {
      method: "POST",
      headers: { ...session.headers, "content-type": "application/json", "content-encoding": "gzip" },
      body: bomb,
    });
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([501, "unimplemented"]);
  });

  test("JSON nested without end, and a message of nothing but members", async () => {
    const nested = `{"process":{"pid":5},"x":${"[".repeat(2 * mebibyte)}${"]".repeat(2 * mebibyte)}}`;
    expect((await callUnary(plane.url, "process.Process/CloseStdin", nested, session.headers)).status).toBeLessThan(
      500,
    );
    const members = `{${Array.from({ length: 100_000 }, (_, n) => `"m${n}":0`).join(",")}}`;
    const answer = await callUnary(plane.url, "process.Process/CloseStdin", members, session.headers);
    expect(answer.json).toMatchObject({ code: "invalid_argument" });
  });

  test("a client that half-closes its connection leaves no subscriber", async () => {
    const body = envelope(command);
    const lines = { "content-type": "application/connect+json", "content-length": String(body.length) };
    const socket = open(plane, head(session, "POST /process.Process/Start", lines));
    socket.end(body);
    await once(socket, "data");
    const started = await session.processes.find({ pid: 100 });
    await expect.poll(() => started.subscriberCount).toBe(0);
    expect(started.state.at).toBe("running");
    socket.destroy();
  });

  test("a request that names a sandbox twice names none", async () => {
    const twice = head(session, "GET /envs", { connection: "close" }).replace(
      "\r\n\r\n",
      "\r\nE2b-Sandbox-Id: iaaother\r\n\r\n",
    );
    expect(await readToEnd(open(plane, twice))).toMatch(/^HTTP\/1\.1 (400|404) /);
  });
});

describe("files", () => {
  let sandbox: LocalSandbox;
  const inFolder = (...names: string[]) => join(sandbox.folder, ...names);
  const get = (path: string) =>
    fetch(`${sandbox.plane.url}/files?${new URLSearchParams({ path })}`, { headers: sandbox.session.headers });

  beforeAll(async () => {
    sandbox = await startLocalSandbox();
  });
  afterAll(async () => {
    await sandbox[Symbol.asyncDispose]();
    expect(sandbox.plane.logged).toEqual([]);
  });

  test("a body that unpacks to a thousand times its size goes through flat memory", async () => {
    const size = 256 * mebibyte;
    const zip = createGzip();
    const packed: Buffer[] = [];
    zip.on("data", (chunk) => packed.push(chunk));
    for (let n = 0; n < size / mebibyte; n++) if (!zip.write(Buffer.alloc(mebibyte))) await once(zip, "drain");
    zip.end();
    await once(zip, "end");
    const bomb = Buffer.concat(packed);
    expect(bomb.length * 900).toBeLessThan(size);
    const start = process.memoryUsage().rss;
    let most = 0;
    const watching = setInterval(() => {
      most = Math.max(most, process.memoryUsage().rss - start);
    }, 20);
    const response = await fetch(`${sandbox.plane.url}/files?path=${inFolder("bomb")}`, {
      method: "POST",
      headers: {
        ...sandbox.session.headers,
        "content-type": "application/octet-stream",
        "content-encoding": "gzip",
      },
      body: new Uint8Array(bomb),
    });
    clearInterval(watching);
    expect(response.status).toBe(200);
    expect((await stat(inFolder("bomb"))).size).toBe(size);
    expect(most).toBeLessThan(96 * mebibyte);
  });

  test.each([
    ["deflate", "application/octet-stream"],
    ["br", "application/octet-stream"],
    ["gzip, gzip", "application/octet-stream"],
    ["gzip", "multipart/form-data; boundary=b"],
  ])("an upload in %s as %s is refused", async (encoding, type) => {
    const response = await fetch(`${sandbox.plane.url}/files?path=${inFolder("never")}`, {
      method: "POST",
      headers: { ...sandbox.session.headers, "content-type": type, "content-encoding": encoding },
      body: new Uint8Array(gzipSync("x")),
    });
    expect([response.status, await response.json()]).toMatchObject([400, { code: 400 }]);
    expect(await readdir(sandbox.folder)).not.toContain("never");
  });

  test("a form of more than 10,000 files is refused", async () => {
    const part = (n: number) => `--b\r\nContent-Disposition: form-data; name="other"; filename="${n}"\r\n\r\n\r\n`;
    const body = `${Array.from({ length: 10_050 }, (_, n) => part(n)).join("")}--b--\r\n`;
    const response = await fetch(`${sandbox.plane.url}/files`, {
      method: "POST",
      headers: { ...sandbox.session.headers, "content-type": "multipart/form-data; boundary=b" },
      body,
    });
    expect([response.status, await response.json()]).toMatchObject([400, { code: 400 }]);
  });

  test("paths that lead in circles, or to no file, are refused", async () => {
    await symlink(inFolder("loop-b"), inFolder("loop-a"));
    await symlink(inFolder("loop-a"), inFolder("loop-b"));
    await symlink(sandbox.folder, inFolder("self"));
    await writeFile(inFolder("file"), "x");
    expect((await get(inFolder("loop-a"))).status).toBe(400);
    expect((await get(inFolder("file", "below"))).status).toBe(400);
    for (const odd of ["/dev/zero", "/dev/tty", "/proc/self/fd", "/proc/kcore/x"]) {
      const { status } = await get(odd);
      expect([odd, status >= 400 && status < 500]).toEqual([odd, true]);
    }
    const listed = await callUnary(
      sandbox.plane.url,
      "filesystem.Filesystem/ListDir",
      { path: sandbox.folder, depth: 4_000_000_000 },
      sandbox.session.headers,
    );
    const paths = (listed.json.entries as { path: string }[]).map(({ path }) => path);
    expect(paths).toEqual(expect.arrayContaining([inFolder("self"), inFolder("file")]));
    expect(paths).not.toContain(inFolder("self", "file"));
    const looped = await callUnary(
      sandbox.plane.url,
      "filesystem.Filesystem/ListDir",
      { path: inFolder("loop-a") },
      sandbox.session.headers,
    );
    expect(looped).toMatchObject({ status: 400, json: { code: "failed_precondition" } });
  });

  test("a path climbs no further than its root", async () => {
    await writeFile(inFolder("file"), "x");
    const climbing = `${"../".repeat(50)}${inFolder("..", "..", inFolder("file")).slice(1)}`;
    expect(await (await get(`/${climbing}`)).text()).toBe("x");
  });
});

describe("bodies that stop", () => {
  test("in the middle lose their connection and leave nothing open in the guest", async () => {
    await using sandbox = await startLocalSandbox("iaaidle");
    await using plane = await serveDataPlane([sandbox.session], systemClock, [], { bodyIdleMs: 100 });
    const before = await sandbox.openFiles();
    const bodies = [
      ["/files?path=/tmp/firkin-idle", "application/octet-stream", "half"],
      ["/files", "multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data"],
      ["/files/compose", "application/json", "{"],
      ["/process.Process/SendInput", "application/json", "{"],
      ["/process.Process/Start", "application/connect+json", "\0\0\0"],
    ] as const;
    const ends = bodies.map(([path, type, part]) => {
      const lines = { "content-type": type, "content-length": "1000" };
      return readToEnd(open(plane, head(sandbox.session, `POST ${path}`, lines) + part));
    });
    await Promise.all(ends);
    await expect.poll(() => sandbox.openFiles()).toBeLessThanOrEqual(before);
  });

  test("because the sandbox is slow are left alone", () => {
    vi.useFakeTimers();
    const destroy = vi.fn();
    const request = Object.assign(new EventEmitter(), {
      headers: { "content-length": "9" },
      socket: { bytesRead: 5 },
      complete: false,
      readableLength: 3,
      destroy,
    });
    dropIdleBody(request as unknown as IncomingMessage, 1_000);
    vi.advanceTimersByTime(10_000);
    expect(destroy).not.toHaveBeenCalled();
    request.readableLength = 0;
    request.socket.bytesRead = 6;
    vi.advanceTimersByTime(1_000);
    expect(destroy).not.toHaveBeenCalled();
    vi.advanceTimersByTime(1_000);
    expect(destroy).toHaveBeenCalledOnce();
    request.emit("close");
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
  });
});
