import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EventType, Filesystem, FileType } from "../../src/e2b/gen/filesystem/filesystem_pb.ts";
import { Process, StreamInputRequestSchema } from "../../src/e2b/gen/process/process_pb.ts";
import { callUnary, openStream } from "../support/clients/connect-frames.ts";
import { type LocalSandbox, startLocalSandbox } from "../support/guest/local-session.ts";

let sandbox: LocalSandbox;
const inFolder = (...names: string[]) => join(sandbox.folder, ...names);
const get = (path: string, headers = sandbox.session.headers) => fetch(`${sandbox.plane.url}${path}`, { headers });

beforeAll(async () => {
  sandbox = await startLocalSandbox();
});

afterAll(async () => {
  await sandbox[Symbol.asyncDispose]();
  expect(sandbox.plane.logged).toEqual([]);
});

describe("envd's small routes", () => {
  test("health is open, empty and never cached", async () => {
    const { "x-access-token": _, ...headers } = sandbox.session.headers;
    const response = await get("/health", headers);
    expect([response.status, response.headers.get("cache-control"), await response.text()]).toEqual([
      204,
      "no-store",
      "",
    ]);
  });

  test("metrics and envs need the token", async () => {
    const { "x-access-token": _, ...headers } = sandbox.session.headers;
    expect((await get("/metrics", headers)).status).toBe(401);
    expect((await get("/envs", headers)).status).toBe(401);
    expect(await (await get("/envs")).json()).toEqual({ E2B_SANDBOX: "true" });
    for (let i = 0; i < 2; i++) {
      const metrics = (await (await get("/metrics")).json()) as Record<string, number>;
      expect(Object.keys(metrics).sort()).toEqual(
        "cpu_count cpu_used_pct disk_total disk_used mem_cache mem_total mem_total_mib mem_used mem_used_mib ts".split(
          " ",
        ),
      );
      expect(metrics.cpu_count).toBeGreaterThan(0);
      expect(metrics.cpu_used_pct).toBeGreaterThanOrEqual(0);
      expect(metrics.cpu_used_pct).toBeLessThanOrEqual(100);
      expect(metrics.mem_used).toBeLessThan(metrics.mem_total ?? 0);
    }
  });

  test("the paths of E2B's orchestrator, and unknown paths, are a 404", async () => {
    for (const path of ["/init", "/freeze", "/nothing/here"]) {
      const response = await get(path);
      expect(response.status).toBe(404);
      expect(await response.json()).toMatchObject({ code: 404 });
    }
  });
});

describe("in binary, with a generated client", () => {
  const clientOf = () => {
    const transport = createConnectTransport({
      baseUrl: sandbox.plane.url,
      httpVersion: "1.1",
      useBinaryFormat: true,
      interceptors: [
        (next) => (request) => {
          for (const [name, value] of Object.entries(sandbox.session.headers)) request.header.set(name, value);
          return next(request);
        },
      ],
    });
    return { process: createClient(Process, transport), files: createClient(Filesystem, transport) };
  };

  test("start to end", async () => {
    const { process } = clientOf();
    const events: string[] = [];
    let output = Buffer.alloc(0);
    for await (const { event } of process.start({
      process: { cmd: "/bin/sh", args: ["-c", "printf '\\0\\377'; exit 3"] },
    })) {
      events.push(event?.event.case ?? "none");
      if (event?.event.case === "data" && event.event.value.output.case === "stdout") {
        output = Buffer.concat([output, event.event.value.output.value]);
      }
      if (event?.event.case === "end")
        expect(event.event.value).toMatchObject({ exitCode: 3, status: "exit status 3" });
    }
    expect(events).toEqual(["start", "data", "end"]);
    expect([...output]).toEqual([0, 255]);
  });

  test("input as a stream", async () => {
    const { process } = clientOf();
    const started = process.start({ process: { cmd: "/bin/cat" }, tag: "cat" })[Symbol.asyncIterator]();
    await started.next();
    const selector = { selector: { case: "tag", value: "cat" } } as const;
    const message = (event: MessageInitShape<typeof StreamInputRequestSchema>["event"] & {}) =>
      create(StreamInputRequestSchema, { event });
    await process.streamInput(
      (async function* () {
        yield message({ case: "start", value: { process: selector } });
        yield message({ case: "keepalive", value: {} });
        for (const text of ["a", "b", "c"]) {
          yield message({ case: "data", value: { input: { input: { case: "stdin", value: Buffer.from(text) } } } });
        }
      })(),
    );
    await process.closeStdin({ process: selector });
    let text = "";
    for (let next = await started.next(); !next.done; next = await started.next()) {
      const event = next.value.event?.event;
      if (event?.case === "data" && event.value.output.case === "stdout") text += Buffer.from(event.value.output.value);
    }
    expect(text).toBe("abc");
  });

  test("entries have links, types, times and attributes", async () => {
    const { files } = clientOf();
    await mkdir(inFolder("dir"));
    await writeFile(inFolder("dir", "file"), "12345");
    await symlink("file", inFolder("dir", "link"));
    await symlink("/not/there", inFolder("dir", "broken"));
    const { entries } = await files.listDir({ path: inFolder("dir") });
    expect(
      entries.map(({ name, type, symlinkTarget, permissions }) => [name, type, symlinkTarget, permissions[0]]),
    ).toEqual([
      ["broken", FileType.UNSPECIFIED, "/not/there", "L"],
      ["file", FileType.FILE, undefined, "-"],
      ["link", FileType.FILE, inFolder("dir", "file"), "L"],
    ]);
    const { entry } = await files.stat({ path: inFolder("dir", "file") });
    expect(entry).toMatchObject({ size: 5n, owner: "root" });
    expect(Math.abs(Number(entry?.modifiedTime?.seconds) - Date.now() / 1000)).toBeLessThan(60);
    expect(await files.remove({ path: inFolder("not there") })).toBeDefined();
    const belowFile = files.stat({ path: inFolder("dir", "file", "x") });
    await expect(belowFile).rejects.toMatchObject({
      code: Code.NotFound,
      rawMessage: expect.stringMatching(/^file not found: /),
    });
  });

  test("polled watchers", async () => {
    const { files } = clientOf();
    await mkdir(inFolder("polled"));
    const { watcherId } = await files.createWatcher({ path: inFolder("polled"), includeEntry: true });
    expect(watcherId).toMatch(/^w[0-9a-z]+$/);
    expect((await files.getWatcherEvents({ watcherId })).events).toEqual([]);
    await writeFile(inFolder("polled", "f"), "x");
    const seen: { name: string; type: EventType; size: bigint | undefined }[] = [];
    await expect
      .poll(async () => {
        const { events } = await files.getWatcherEvents({ watcherId });
        seen.push(...events.map(({ name, type, entry }) => ({ name, type, size: entry?.size })));
        return seen.map(({ type }) => type);
      })
      .toContain(EventType.WRITE);
    expect(seen[0]).toMatchObject({ name: "f", type: EventType.CREATE });
    await files.removeWatcher({ watcherId });
    await expect(files.getWatcherEvents({ watcherId })).rejects.toThrow(`watcher with id ${watcherId} not found`);
    await expect(files.createWatcher({ path: inFolder("nothing") })).rejects.toThrow("path not found");
  });
});

test("a watch ends with its client", async () => {
  await mkdir(inFolder("watched"));
  const before = await sandbox.openFiles();
  const leaving = new AbortController();
  const watch = { path: inFolder("watched"), recursive: true };
  for (let i = 0; i < 20; i++) {
    const { frames } = await openStream(
      sandbox.plane.url,
      "filesystem.Filesystem/WatchDir",
      watch,
      sandbox.session.headers,
      leaving.signal,
    );
    expect(await frames.next()).toEqual({ flags: 0, json: { start: {} } });
  }
  expect(await sandbox.openFiles()).toBeGreaterThan(before);
  leaving.abort();
  await expect.poll(() => sandbox.openFiles()).toBe(before);
});

describe("the words of file-system errors", () => {
  const call = (method: string, message: object) =>
    callUnary(sandbox.plane.url, `filesystem.Filesystem/${method}`, message, sandbox.session.headers);

  test.each([
    ["Stat", () => ({ path: inFolder("no") }), 404, "not_found", "file not found: "],
    ["MakeDir", () => ({ path: sandbox.folder }), 409, "already_exists", "directory already exists: "],
    ["MakeDir", () => ({ path: "/etc/passwd" }), 400, "invalid_argument", "is not a directory"],
    [
      "Move",
      () => ({ source: inFolder("no"), destination: inFolder("x") }),
      404,
      "not_found",
      "source file not found: ",
    ],
    ["ListDir", () => ({ path: inFolder("no") }), 404, "not_found", "path not found: "],
    ["ListDir", () => ({ path: "/etc/passwd" }), 400, "invalid_argument", "path is not a directory: "],
    ["Stat", () => ({ path: "~other/x" }), 400, "invalid_argument", ""],
    ["Remove", () => ({ path: "/" }), 400, "invalid_argument", ""],
    ["CreateWatcher", () => ({ path: "/etc/passwd" }), 400, "invalid_argument", "path is not a directory: "],
    ["RemoveWatcher", () => ({ watcherId: "x" }), 404, "not_found", "watcher with id x not found"],
  ])("%s %#", async (method, message, status, code, text) => {
    const answer = await call(method, message());
    expect(answer).toMatchObject({ status, json: { code } });
    expect(answer.json.message).toContain(text);
  });

  test("an unknown user", async () => {
    const authorization = `Basic ${Buffer.from("who:").toString("base64")}`;
    const headers = { ...sandbox.session.headers, authorization };
    expect(await callUnary(sandbox.plane.url, "filesystem.Filesystem/Stat", { path: "/" }, headers)).toEqual({
      status: 401,
      json: { code: "unauthenticated", message: "invalid username: 'who'" },
    });
  });
});
