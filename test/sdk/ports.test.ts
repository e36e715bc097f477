/** Ports of a sandbox as users reach them: a service on a real machine, which listens on its loopback alone. */
import { readdirSync, readFileSync } from "node:fs";
import { Agent, type ClientRequest, type IncomingMessage, request } from "node:http";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { createSandbox, type Sandbox, sharedDaemon, skipReason } from "../support/clients/sdk.ts";

const port = 8000;
const script = readFileSync(fileURLToPath(new URL("fixtures/service.mjs", import.meta.url)), "utf8");

describe.skipIf(skipReason)("ports of a sandbox", () => {
  let made: Awaited<ReturnType<typeof createSandbox>>;
  let sandbox: Sandbox;

  beforeAll(async () => {
    made = await createSandbox({ timeoutMs: 900_000, lifecycle: { onTimeout: "pause", autoResume: true } });
    sandbox = made.sandbox;
    await sandbox.files.write("/home/user/service.mjs", script);
    await serve(port);
  });
  afterAll(() => made?.[Symbol.asyncDispose]());

  const serve = (on: number) =>
    new Promise<void>((resolve, reject) => {
      const onStdout = () => resolve();
      sandbox.commands.run(`node service.mjs ${on}`, { background: true, timeoutMs: 0, onStdout }).catch(reject);
    });

  /** Asks as a browser or curl would, by the name that `getHost` gives, which both resolve to this machine. */
  function open(path: string, options: { method?: string; agent?: Agent; headers?: object; on?: number } = {}) {
    const host = sandbox.getHost(options.on ?? port);
    const { port: daemonPort } = new URL(`http://${host}`);
    const { method = "GET", agent } = options;
    const headers = { host, ...options.headers };
    return request({ host: "127.0.0.1", port: daemonPort, path, method, headers, ...(agent ? { agent } : {}) });
  }

  function answerOf(asked: ClientRequest): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => asked.once("response", resolve).once("error", reject));
  }

  async function textOf(asked: ClientRequest): Promise<{ status: number | undefined; text: string }> {
    const answer = await answerOf(asked);
    let text = "";
    for await (const chunk of answer) text += chunk;
    return { status: answer.statusCode, text };
  }

  test("the name that getHost gives leads to the service, which sees it, and headers lead there as well", async () => {
    const host = sandbox.getHost(port);
    expect(host).toBe(`${port}-${sandbox.sandboxId}.localhost:${new URL(sharedDaemon().url).port}`);
    const { status, text } = await textOf(open("/path?x=1").end());
    expect([status, JSON.parse(text)]).toEqual([200, expect.objectContaining({ url: "/path?x=1" })]);
    expect(JSON.parse(text).headers.host).toBe(host);
    const headers = { "e2b-sandbox-id": sandbox.sandboxId, "e2b-sandbox-port": String(port) };
    expect((await fetch(sharedDaemon().url, { headers })).status).toBe(200);
  });

  test("both directions of a request stream at once, and megabytes go up", async () => {
    const asked = open("/echo", { method: "POST" });
    asked.write("one");
    const answer = await answerOf(asked);
    const chunks = answer.setEncoding("utf8")[Symbol.asyncIterator]();
    expect((await chunks.next()).value).toBe("one");
    asked.write("two");
    expect((await chunks.next()).value).toBe("two");
    asked.end();
    expect((await chunks.next()).done).toBe(true);
    const { text } = await textOf(open("/upload", { method: "PUT" }).end(Buffer.alloc(8_000_000)));
    expect(JSON.parse(text)).toMatchObject({ bytes: 8_000_000 });
  });

  test("a WebSocket works by name", async () => {
    const host = sandbox.getHost(port);
    const socket = new WebSocket(`ws://127.0.0.1:${new URL(`http://${host}`).port}/`, { headers: { host } });
    await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
    for (const text of ["hello", "again"]) {
      socket.send(text);
      expect(String(await new Promise((resolve) => socket.once("message", resolve)))).toBe(text);
    }
    socket.terminate();
  });

  test("a closed port is a page for people and JSON for programs, until a service listens on it", async () => {
    const browser = { "user-agent": "Mozilla/5.0 Firefox/140.0", accept: "text/html", "sec-fetch-mode": "navigate" };
    const page = await textOf(open("/", { on: 9, headers: browser }).end());
    expect(page.status).toBe(502);
    expect(page.text).toMatch(new RegExp(`^<html[\\s\\S]*no service running on port 9[\\s\\S]*${sandbox.sandboxId}`));
    expect(JSON.parse((await textOf(open("/", { on: 9 }).end())).text)).toMatchObject({ port: 9, code: 502 });
    const started = serve(8001);
    // Node.js takes a second to start in an emulated machine, which is longer than one request waits.
    await expect.poll(async () => (await textOf(open("/", { on: 8001 }).end())).status).toBe(200);
    await started;
  });

  test("2,000 requests through one preview leave nothing behind, in the daemon or in the sandbox", async () => {
    const { pid } = sharedDaemon();
    const inDaemon = () => readdirSync(`/proc/${pid}/fd`).length;
    const inSandbox = async () => {
      const counts = `ls /proc/1/fd | wc -l; grep -c ':1F40 ' /proc/net/tcp`;
      const { stdout } = await sandbox.commands.run(counts, { user: "root" });
      return stdout.trim().split("\n").map(Number);
    };
    const before = { daemon: inDaemon(), sandbox: await inSandbox() };
    for (const keepAlive of [true, false]) {
      const agent = new Agent({ keepAlive, maxSockets: 16 });
      let left = 1_000;
      const worker = async () => {
        while (left-- > 0) expect((await textOf(open("/", { agent }).end())).status).toBe(200);
      };
      await Promise.all(Array.from({ length: 16 }, worker));
      agent.destroy();
    }
    await expect.poll(inDaemon).toBeLessThanOrEqual(before.daemon);
    // Sockets in TIME_WAIT are the kernel's, for a minute.
    await expect.poll(async () => (await inSandbox())[0]).toBeLessThanOrEqual(before.sandbox[0] ?? 0);
    // Sockets that are open or half open, without the listening one and those in TIME_WAIT.
    const open8000 = "grep ':1F40 ' /proc/net/tcp | awk '$4 == \"01\" || $4 == \"08\"' | wc -l";
    const openInSandbox = async () => (await sandbox.commands.run(open8000, { user: "root" })).stdout.trim();
    await expect.poll(openInSandbox).toBe("0");
  });

  test("traffic wakes a paused sandbox, whose service goes on", async () => {
    await sandbox.pause();
    const answers = await Promise.all([1, 2, 3].map((n) => textOf(open(`/${n}`).end())));
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(await sandbox.isRunning()).toBe(true);
  });
});
