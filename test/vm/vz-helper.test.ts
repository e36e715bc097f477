/** The helper `firkin-vz` against peers that misbehave on its sockets: it refuses them by name and goes on serving. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { openSocket } from "../../src/machine/socket.ts";
import { HelperClient } from "../../src/machine/vz/helper-client.ts";
import { identitySchema, nothingSchema, savedSchema, statsSchema } from "../../src/machine/vz/helper-messages.ts";
import {
  missingForSimulation,
  type SimulatedFramework,
  simulateFramework,
} from "../support/fakes/simulated-framework.ts";
import { newShortFolder } from "../support/short-folder.ts";
import { titleOf } from "../support/skipped-title.ts";

const missing = await missingForSimulation();
const title = "the helper on the simulated framework";
const deadlineMs = 60_000;
const descriptors = 64;

describe.skipIf(missing)(titleOf(title, missing), () => {
  let root = "";
  let folder = "";
  let mac: SimulatedFramework;
  let helper: ChildProcess;
  beforeAll(async () => {
    root = await newShortFolder();
    mac = await simulateFramework(join(root, "mac"));
  });
  afterAll(() => rm(root, { recursive: true, force: true }));
  beforeEach(async () => {
    folder = await mkdtemp(join(root, "h-"));
    start();
  });
  afterEach(end);

  /** Starts the helper with few descriptors, so that it runs out of them quickly. */
  function start(): void {
    const script = `ulimit -n ${descriptors}; exec "$@"`;
    helper = spawn("/bin/sh", ["-c", script, "sh", mac.helper, `${folder}/`], { stdio: "ignore" });
  }
  async function end(): Promise<void> {
    if (helper.exitCode !== null || helper.signalCode !== null) return;
    helper.kill("SIGKILL");
    await once(helper, "exit");
  }
  const exitCode = async () => helper.exitCode ?? (await once(helper, "exit"))[0];
  const control = () => HelperClient.connect(join(folder, "control.sock"), { deadlineMs });
  const order = (disk: string) => {
    const { kernel, initramfs, baseDisk } = mac;
    const machine = { vcpuCount: 1, memoryMiB: 64, diskMiB: 640, disk: join(folder, disk) };
    const commandLine = "firkin.vsock=1024";
    return { op: "start", machine, diskSource: baseDisk, kernel, initramfs, commandLine } as const;
  };
  /** Sends bytes, and gives the lines of the helper until there are `count` or it hangs up. */
  const say = async (bytes: string | Buffer, count: number, name = "control.sock") => {
    (await control()).close();
    const socket = connect(join(folder, name));
    socket.write(bytes);
    const lines = await readLines(socket, count);
    socket.destroy();
    return lines;
  };
  const hello = `{"id":1,"op":"hello","version":1}\n`;

  test.each([
    ["garbage", "garbage\n", "bad_message"],
    ["bytes that are no text", Buffer.from([0xff, 0xfe, 10]), "bad_message"],
    ["a line without an end", "x".repeat((1 << 20) + 1), "bad_message"],
    ["a request without an id", `{"op":"kill"}\n`, "bad_message"],
  ])("%s ends the connection, and says why", async (_, bytes, code) => {
    const lines = await say(bytes, 2);
    expect(lines.map((line) => JSON.parse(line))).toMatchObject([{ id: null, ok: false, error: { code } }]);
    expect((await control()).hello.state).toBe("new");
  });

  test("a request that is refused by name does not end the connection", async () => {
    const bytes = `{"id":5,"op":"stop"}\n{"id":6,"op":"hello","version":9}\n${hello}{"id":7,"op":"frobnicate"}\n{"id":8,"op":"start"}\n`;
    const answers = (await say(bytes, 5)).map((line) => JSON.parse(line));
    const codes = new Map(answers.map(({ id, error }) => [id, error?.code]));
    expect(Object.fromEntries(codes)).toEqual({
      1: undefined,
      5: "hello_first",
      6: "unsupported_version",
      7: "unknown_operation",
      8: "invalid_argument",
    });
  });

  test("half a message at the end of a connection is ignored", async () => {
    expect(await say(`${hello}{"id":2,"op":"ki`, 1)).toHaveLength(1);
    expect((await control()).hello.state).toBe("new");
  });

  test("a helper with more connections than descriptors serves again when they are gone", async () => {
    (await control()).close();
    const crowd: Socket[] = [];
    // Connections that wait to be accepted are refused first. The helper is full when it has no descriptor left: the
    // accept that waits at its other socket holds a number that is no file yet. Descriptors of the test runner may lie
    // above the limit.
    const descriptorsOfCrowded = async () => {
      const crowded = async () => {
        for (;;) crowd.push(await openSocket(join(folder, "control.sock")));
      };
      await expect(crowded()).rejects.toMatchObject({ code: "EAGAIN" });
      return (await readdir(`/proc/${helper.pid}/fd`)).filter((number) => Number(number) < descriptors).length;
    };
    await expect.poll(descriptorsOfCrowded).toBe(descriptors - 1);
    for (const socket of crowd) socket.destroy();
    expect((await control()).hello.state).toBe("new");
  });

  test("a stream without a greeting, or to a machine that is not there, is refused by name", async () => {
    expect(await say("GET / HTTP/1.1\n", 1, "streams.sock")).toEqual([expect.stringMatching(/^ERR say CONNECT/)]);
    expect(await say("CONNECT 1024\n", 1, "streams.sock")).toEqual([expect.stringMatching(/^ERR there is no machine/)]);
    expect((await (await control()).request({ op: "stats" }, statsSchema, deadlineMs)).streams).toBe(0);
  });

  test("a machine whose start failed can only be ended, and ends in order", async () => {
    const client = await control();
    const failing = { ...order("d"), kernel: "/nonexistent" };
    await expect(client.request(failing, identitySchema, deadlineMs)).rejects.toMatchObject({ code: "machine_failed" });
    await expect(client.request(order("e"), identitySchema, deadlineMs)).rejects.toMatchObject({
      code: "invalid_state",
    });
    await client.request({ op: "stop" }, nothingSchema, deadlineMs);
    expect(await exitCode()).toBe(0);
  });

  test("a save into files that exist is refused, and the files stay", async () => {
    const client = await control();
    await client.request(order("d"), identitySchema, deadlineMs);
    await client.request({ op: "pause" }, nothingSchema, deadlineMs);
    const files = { stateFile: join(folder, "state"), diskClone: join(folder, "clone") };
    await client.request({ op: "save", ...files }, savedSchema, deadlineMs);
    for (const again of [files, { ...files, stateFile: join(folder, "other") }]) {
      await expect(client.request({ op: "save", ...again }, savedSchema, deadlineMs)).rejects.toMatchObject({
        code: "invalid_argument",
        message: expect.stringContaining("is there already"),
      });
    }
    const nowhere = { stateFile: join(folder, "third"), diskClone: join(folder, "nowhere/clone") };
    await expect(client.request({ op: "save", ...nowhere }, savedSchema, deadlineMs)).rejects.toThrow(/nowhere/);
    expect((await readdir(folder)).filter((name) => /^(state|clone|other|third)/.test(name)).sort()).toEqual([
      "clone",
      "state",
    ]);
    expect((await client.request({ op: "stats" }, statsSchema, deadlineMs)).state).toBe("paused");
    client.close();
  });

  test("kill overtakes a save", async () => {
    await mac.set({ saveMs: 600_000 });
    await end();
    folder = await mkdtemp(join(root, "h-"));
    start();
    const client = await control();
    await mac.set({});
    await client.request(order("d"), identitySchema, deadlineMs);
    await client.request({ op: "pause" }, nothingSchema, deadlineMs);
    const files = { stateFile: join(folder, "state"), diskClone: join(folder, "clone") };
    const saving = client.request({ op: "save", ...files }, savedSchema, deadlineMs);
    const killing = client.request({ op: "kill" }, nothingSchema, deadlineMs);
    // The save fails with its machine, and the helper may still say so before it ends.
    const fails = { code: expect.stringMatching(/^(machine_failed|invalid_state)$/) };
    await Promise.all([
      expect(saving).rejects.toMatchObject(fails),
      expect(killing).rejects.toMatchObject({ code: "machine_failed" }),
    ]);
    expect(await exitCode()).toBe(0);
  });
});

/** Lines until there are `count`, or the peer hangs up. */
function readLines(socket: Socket, count: number): Promise<string[]> {
  return new Promise((resolve) => {
    let text = "";
    const lines = () => text.split("\n").slice(0, -1);
    socket.on("data", (chunk) => {
      text += chunk;
      if (lines().length >= count) resolve(lines());
    });
    // A helper that hangs up with unread bytes before it resets the connection.
    socket.on("error", () => resolve(lines()));
    socket.on("close", () => resolve(lines()));
  });
}
