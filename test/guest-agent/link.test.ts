/** Tests of connections: greeting, resynchronisation, streams and windows. */

import { mkdtempSync, rmSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildSanitized, sanitizedFolder, startAgent } from "../support/guest/built-agent.ts";
import {
  encodeFrame,
  encodeHello,
  encodePayload,
  op,
  preamble,
  RawLink,
  type RawStream,
  tag,
  WINDOW,
} from "../support/guest/raw-link.ts";

let folder: string;

beforeAll(async () => {
  buildSanitized();
  folder = mkdtempSync(join(tmpdir(), "firkin-link-"));
  await writeFile(join(folder, "large"), Buffer.alloc(1_000_000, "x"));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const pingIs = async (link: RawLink) => (await link.call(op.ping)).status;
const settle = () => new Promise((resolve) => setTimeout(resolve, 100));

test("a hello is answered with version, agent version and boot id, for any version of the host", async () => {
  await using link = new RawLink(`${sanitizedFolder}firkin-agent`);
  for (const version of [1, 99]) {
    const welcome = await link.hello(version);
    expect(welcome.int(tag.version)).toBe(1);
    expect(welcome.text(tag.agentVersion)).toMatch(/^\d+\.\d+/);
    expect(welcome.text(tag.bootId)).toMatch(/^[0-9a-f-]{36}$/);
  }
  expect(await pingIs(link)).toBe("ok");
});

test("before the first hello the agent acts on nothing", async () => {
  await using link = new RawLink(`${sanitizedFolder}firkin-agent`);
  link.write(encodeFrame("OPEN", 1, encodePayload(op.makeDirectory, [[tag.path, join(folder, "early")]])));
  await link.hello();
  const { status } = await link.call(op.stat, [[tag.path, join(folder, "early")]]);
  expect(status).toBe("not_found");
});

test.each([
  ["unknown type", Buffer.alloc(40, 0xee)],
  ["half a frame", encodeFrame("DATA", 1, Buffer.alloc(30_000)).subarray(0, 20_000)],
  ["half a hello", encodeHello(Buffer.alloc(16)).subarray(0, 30)],
  ["a hello with a bad end", Buffer.concat([encodeHello(Buffer.alloc(16)).subarray(0, -1), Buffer.of(7)])],
  ["a hello of another kind", encodeFrame("HELLO", 0, Buffer.alloc(26))],
  ["a hello on a stream", encodeFrame("HELLO", 7, Buffer.alloc(26))],
  ["too long", Buffer.from("0400000000000001ffffffff", "hex")],
  ["a window of one byte", encodeFrame("WINDOW", 1, Buffer.of(1))],
  ["an open without operation", encodeFrame("OPEN", 1)],
  ["an end with payload", encodeFrame("END", 1, Buffer.of(1))],
  ["a frame only agents send", encodeFrame("RESULT", 1, Buffer.of(0, 0))],
  ["stream 0", encodeFrame("OPEN", 0, encodePayload(op.ping))],
])("after %s a new hello is answered and all is well", async (_, bytes) => {
  await using link = await startAgent();
  expect(await pingIs(link)).toBe("ok");
  link.write(bytes);
  await link.hello();
  expect(await pingIs(link)).toBe("ok");
});

test("after a protocol error everything but a hello is ignored", async () => {
  await using link = await startAgent();
  link.write(Buffer.alloc(12, 0xff));
  link.write(encodeFrame("OPEN", 1, encodePayload(op.makeDirectory, [[tag.path, join(folder, "lost")]])));
  await settle();
  await link.hello();
  expect((await link.call(op.stat, [[tag.path, join(folder, "lost")]])).status).toBe("not_found");
});

test("a hello in the midst forgets streams and queued output, and processes stay", async () => {
  await using link = await startAgent();
  const stuck = link.open(op.read, [[tag.path, join(folder, "large")]]);
  expect((await stuck.next()).type).toBe("EVENT");
  const process = link.shell("echo here; exec sleep 100");
  await process.until("here");
  await link.hello();
  expect(await pingIs(link)).toBe("ok");
  const { fields } = await link.call(op.list);
  const [info] = fields.groups(tag.process);
  expect(info?.int(tag.pid)).toBeGreaterThan(0);
  expect(
    (
      await link.call(op.signal, [
        [tag.pid, info?.int(tag.pid) ?? 0],
        [tag.signal, 9],
      ])
    ).status,
  ).toBe("ok");
});

test("two hellos at once: only the last one counts", async () => {
  await using link = await startAgent();
  link.write(Buffer.concat([preamble, encodeHello(Buffer.alloc(16, 1))]));
  await link.hello();
  expect(await pingIs(link)).toBe("ok");
});

test("bytes one at a time are understood", async () => {
  await using link = await startAgent();
  const stream = link.reserve();
  for (const byte of encodeFrame("OPEN", stream.id, encodePayload(op.ping))) link.write(Buffer.of(0, byte).subarray(1));
  expect((await stream.collect()).status).toBe("ok");
});

test("opening an open stream is a protocol error, frames for closed ones are not", async () => {
  await using link = await startAgent();
  const { id } = link.open(op.watch, [[tag.path, folder]]);
  link.send("DATA", 4_000, Buffer.from("x"));
  link.send("END", 4_001);
  link.send("RESET", 4_002);
  expect(await pingIs(link)).toBe("ok");
  link.send("OPEN", id, encodePayload(op.ping));
  const after = link.reserve();
  link.send("OPEN", after.id, encodePayload(op.ping));
  await settle();
  expect(after.waitingBytes).toBe(0);
  await link.hello();
  expect(await pingIs(link)).toBe("ok");
});

test("unknown operations and malformed fields are refused, the link goes on", async () => {
  await using link = await startAgent();
  expect((await link.call(99)).status).toBe("unsupported");
  const cut = link.reserve();
  link.send("OPEN", cut.id, Buffer.concat([encodePayload(op.stat), Buffer.of(tag.path, 0, 0, 1, 0, 0x2f)]));
  expect((await cut.collect()).status).toBe("invalid_argument");
  for (const fields of [
    [[tag.path, "a\0b"]],
    [[tag.path, `/${"x".repeat(4_096)}`]],
    [
      [tag.path, "/"],
      [tag.user, "a\0b"],
    ],
  ] as const) {
    expect((await link.call(op.stat, fields)).status).toBe("invalid_argument");
  }
  const oddNumber = [
    [tag.path, "/etc/passwd"],
    [tag.offset, Buffer.of(1)],
  ] as const;
  expect((await link.call(op.read, oddNumber)).status).toBe("invalid_argument");
  const unknownTag = [
    [200, "?"],
    [tag.path, "/"],
  ] as const;
  expect((await link.call(op.stat, unknownTag)).status).toBe("ok");
});

test("an OPEN in parts is one OPEN, and too long a one is refused", async () => {
  await using link = await startAgent();
  const script = `: ${"x".repeat(100_000)}\necho done`;
  const fields = encodePayload(op.exec, [
    [tag.command, "/bin/sh"],
    [tag.argument, "-c"],
    [tag.argument, script],
    [tag.cwd, "/"],
  ]).subarray(2);
  const stream = link.reserve();
  const sendParts = (id: number, bytes: Buffer) => {
    for (let at = 0; at < bytes.length; at += 32_766) {
      const isLast = at + 32_766 >= bytes.length;
      const part = Buffer.concat([Buffer.of(isLast ? 0 : 0x80, op.exec), bytes.subarray(at, at + 32_766)]);
      link.send("OPEN", id, part);
    }
  };
  sendParts(stream.id, fields);
  expect(await stream.collect()).toMatchObject({ status: "ok", stdout: "done\n" });
  const tooLong = link.reserve();
  sendParts(tooLong.id, Buffer.alloc(1_048_577));
  expect((await tooLong.collect()).status).toBe("invalid_argument");
  expect(await pingIs(link)).toBe("ok");
});

test("the 1,025th stream is refused, and there is room again when one ends", async () => {
  await using link = await startAgent();
  const streams: RawStream[] = [];
  for (let i = 0; i < 1_024; i++) streams.push(link.open(op.write, [[tag.path, join(folder, "many")]]));
  const refused = Array.from({ length: 200 }, () => link.open(op.ping));
  for (const stream of refused) expect((await stream.collect()).status).toBe("resource_exhausted");
  streams[5]?.reset();
  expect((await streams[5]?.collect())?.status).toBe("cancelled");
  expect(await pingIs(link)).toBe("ok");
  for (const stream of streams) stream.end();
  for (const [i, stream] of streams.entries()) if (i !== 5) expect((await stream.collect()).status).toBe("ok");
});

test("the agent sends no more than the window, then as much as it is given", async () => {
  await using link = await startAgent();
  const stream = link.open(op.read, [[tag.path, join(folder, "large")]]);
  await expect.poll(() => stream.waitingBytes).toBe(WINDOW);
  expect(await pingIs(link)).toBe("ok");
  expect(stream.waitingBytes).toBe(WINDOW);
  stream.window(1_000);
  await expect.poll(() => stream.waitingBytes).toBe(WINDOW + 1_000);
  stream.window(WINDOW - 1_000);
  await expect.poll(() => stream.waitingBytes).toBe(2 * WINDOW - 1_000 + 1_000);
  stream.reset();
  const { status } = await stream.collect();
  expect(status).toBe("cancelled");
});

test("data beyond the window is a protocol error", async () => {
  await using link = await startAgent();
  const stream = link.shell("sleep 100", [[tag.stdin, true]]);
  await stream.event();
  for (let sent = 0; sent < WINDOW; sent += 32_768) stream.data(Buffer.alloc(32_768));
  expect(await pingIs(link)).toBe("ok");
  for (let sent = 0; sent < 2 * WINDOW; sent += 32_768) stream.data(Buffer.alloc(32_768));
  const after = link.open(op.ping);
  await settle();
  link.bytes.resume();
  await link.hello();
  expect(await pingIs(link)).toBe("ok");
  await expect(Promise.race([after.next(), settle()])).resolves.toBeUndefined();
});

test("a window for more than was sent is a protocol error", async () => {
  await using link = await startAgent();
  const stream = link.open(op.watch, [[tag.path, folder]]);
  await stream.next();
  stream.window(WINDOW);
  const after = link.open(op.ping);
  await expect(Promise.race([after.next(), settle()])).resolves.toBeUndefined();
  await link.hello();
  expect(await pingIs(link)).toBe("ok");
});

test("a stream without a reader does not hold up others", async () => {
  await using link = await startAgent();
  const floods = Array.from({ length: 20 }, () => link.shell("exec cat /dev/zero"));
  for (const flood of floods) await expect.poll(() => flood.waitingBytes).toBeGreaterThan(WINDOW - 10);
  expect(await pingIs(link)).toBe("ok");
  const { data } = await link.call(op.read, [[tag.path, join(folder, "large")]]);
  expect(data[0].length).toBe(1_000_000);
});

test("the end of the link ends the agent and all processes it has started", async () => {
  const link = await startAgent();
  const stream = link.shell("setsid sleep 1000 & sleep 1000 & echo $! ; wait");
  const pid = Number.parseInt((await stream.until("\n")).trim(), 10);
  await link[Symbol.asyncDispose]();
  expect(() => process.kill(pid, 0)).toThrow("ESRCH");
});
