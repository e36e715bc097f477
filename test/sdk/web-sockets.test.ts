/** The daemon's own WebSockets on a real machine: terminals, and processes that a client leaves and comes back to. */
import type { Sandbox } from "e2b";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { api, sharedDaemon, skipReason } from "../support/clients/sdk.ts";
import { SocketClient } from "../support/clients/socket-client.ts";
import { createOn } from "../support/daemon/requests.ts";

describe.skipIf(skipReason)("WebSockets to processes", () => {
  let sandbox: Sandbox;
  const clients: SocketClient[] = [];

  beforeAll(async () => {
    sandbox = await createOn(sharedDaemon(), { timeoutMs: 300_000 });
  });
  afterAll(async () => {
    for (const client of clients) client.drop();
    await sandbox?.kill();
  });

  /** Opens a WebSocket of the sandbox, with the API key unless the options say otherwise. */
  async function open(path: string, options?: object): Promise<SocketClient> {
    const { url, apiKey } = sharedDaemon();
    const withKey = { headers: { "x-api-key": apiKey } };
    const client = await SocketClient.open(`${url}/sandboxes/${sandbox.sandboxId}/${path}`, options ?? withKey);
    clients.push(client);
    return client;
  }

  async function start(script: string): Promise<{ client: SocketClient; pid: number; stream: unknown }> {
    const client = await open("processes");
    client.say({ type: "start", command: "/bin/sh", args: ["-c", script] });
    const said = await client.next();
    expect(said).toMatchObject({ type: "started", offset: 0 });
    return { client, pid: Number(said.pid), stream: said.stream };
  }

  test("a terminal shows what a shell answers, knows its size, and is hung up with its window", {
    repeats: 40,
  }, async () => {
    const path = `/sandboxes/${sandbox.sandboxId}/ticket`;
    const { ticket } = (await (await api(path, { method: "POST" })).json()) as { ticket: string };
    const terminal = await open(`terminal?ticket=${ticket}`, {});
    terminal.say({ type: "start", columns: 100, rows: 30 });
    const { pid } = await terminal.next();
    terminal.input("stty size; echo $((6 * 7))-answer; whoami\r");
    await terminal.sees("42-answer", "terminal");
    await terminal.sees("30 100", "terminal");
    await terminal.sees("user", "terminal");
    terminal.say({ type: "resize", columns: 60, rows: 20 });
    terminal.input("stty size\r");
    await terminal.sees("20 60", "terminal");
    await terminal.close();
    const isGone = async () => !(await sandbox.commands.list()).some((process) => process.pid === pid);
    await expect.poll(isGone).toBe(true);
  });

  test("a process reads its input, writes to both channels, and takes signals", async () => {
    const { client } = await start("cat; echo over >&2; sleep 1000");
    client.input("hello\n");
    await client.sees("hello");
    client.say({ type: "closeStdin" });
    await client.sees("over", "stderr");
    client.say({ type: "signal", signal: "SIGTERM" });
    expect(await client.next()).toMatchObject({ type: "end", exited: false, signal: 15 });
    expect((await client.closed).code).toBe(1000);
  });

  test("a client whose connection dropped goes on where it was, and gets every byte once", async () => {
    const { client, pid, stream } = await start("read go; seq 1 20000; read end; exit 5");
    client.input("go\n");
    await client.sees("\n100\n");
    client.drop();
    const resumed = await open("processes");
    resumed.say({ type: "attach", pid, resume: { stream, offset: client.outputBytes } });
    expect(await resumed.next()).toMatchObject({ type: "attached", offset: client.outputBytes });
    await resumed.sees("\n20000\n");
    const expected = Array.from({ length: 20_000 }, (_, n) => `${n + 1}\n`).join("");
    expect((client.output.stdout ?? "") + resumed.output.stdout).toBe(expected);
    resumed.input("end\n");
    expect(await resumed.next()).toMatchObject({ type: "end", exitCode: 5 });
  });

  test("a slow reader stops its own process and nothing else", async () => {
    const { client } = await start("yes | head -c 24M | tee /dev/null; touch /tmp/written");
    client.socket.pause();
    const there = () => sandbox.files.exists("/tmp/written");
    expect((await sandbox.commands.run("sleep 3; echo others go on")).stdout).toBe("others go on\n");
    expect(await there()).toBe(false);
    client.socket.resume();
    expect(await client.next()).toMatchObject({ type: "end", exitCode: 0 });
    expect(client.outputBytes).toBe(24 * 1024 * 1024);
    expect(await there()).toBe(true);
  });

  test("a command that cannot start is told why", async () => {
    const client = await open("processes");
    client.say({ type: "start", command: "/no/such/program" });
    expect(await client.next()).toMatchObject({ type: "error", code: "invalid_argument" });
    expect((await client.closed).code).toBe(4400);
  });

  test("a pause ends the connection with the reason, and the process is there after the resume", async () => {
    const { client, pid, stream } = await start("echo before; read line; echo got $line; sleep 1000");
    await client.sees("before");
    await sandbox.pause();
    expect(await client.closed).toEqual({ code: 4404, reason: "The sandbox was paused" });
    await sandbox.connect();
    const resumed = await open("processes");
    resumed.say({ type: "attach", pid, resume: { stream, offset: client.outputBytes } });
    expect((await resumed.next()).type).toBe("attached");
    expect(await resumed.next()).toEqual({ type: "gap", from: client.outputBytes, to: null });
    resumed.input("again\n");
    await resumed.sees("got again");
  });
});
