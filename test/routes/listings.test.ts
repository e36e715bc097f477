/** Tests of listings: how large they may be, that they are what one message would be, and that others are served. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  type EntryInfo,
  FileType,
  ListDirRequestSchema,
  ListDirResponseSchema,
} from "../../src/e2b/gen/filesystem/filesystem_pb.ts";
import type { FileEntry } from "../../src/types.ts";
import { callUnary } from "../support/clients/connect-frames.ts";
import { type DataPlane, serveDataPlane, TestSession } from "../support/daemon/data-plane.ts";
import { ManualClock } from "../support/fakes/manual-clock.ts";
import { ScriptedAgent } from "../support/fakes/scripted-agent.ts";

const LIST = "filesystem.Filesystem/ListDir";

/** An agent that lists as many entries as the test wants, and counts those that were taken. */
class ListingAgent extends ScriptedAgent {
  names: Iterable<string> = [];
  taken = 0;
  /** The listing goes no further while this is unsettled. */
  gate: Promise<void> = Promise.resolve();

  async *listDirectory(): AsyncGenerator<FileEntry> {
    for (const name of this.names) {
      this.taken += 1;
      yield {
        name,
        kind: "file",
        path: `/home/user/${name}`,
        sizeBytes: 5,
        mode: 0o644,
        owner: "user",
        group: "user",
        modifiedNs: 1_500_000_001n,
        attributes: { from: "test" },
      };
    }
    await this.gate;
  }

  async stat(): Promise<FileEntry> {
    for await (const entry of this.listDirectory()) return entry;
    throw new Error("there is no entry");
  }
}

let agent: ListingAgent;
let session: TestSession;
let plane: DataPlane;

beforeEach(async () => {
  agent = new ListingAgent();
  session = new TestSession("iaasandbox", agent.asAgent(), new ManualClock());
  plane = await serveDataPlane([session]);
});

afterEach(async () => {
  await plane[Symbol.asyncDispose]();
  expect(plane.logged).toEqual([]);
});

const list = () => callUnary(plane.url, LIST, { path: "/home/user" }, session.headers);

function* names(count: number, length = 10): Generator<string> {
  for (let i = 0; i < count; i++) yield String(i).padStart(length, "n");
}

test("a listing in many pieces is one message, in JSON", async () => {
  agent.names = names(1_000);
  const { status, json } = await list();
  expect(status).toBe(200);
  const { entries } = json as { entries: { name: string }[] };
  expect(entries.map(({ name }) => name)).toEqual([...names(1_000)]);
  expect(entries[7]).toEqual({
    name: "nnnnnnnnn7",
    type: "FILE_TYPE_FILE",
    path: "/home/user/nnnnnnnnn7",
    size: "5",
    mode: 420,
    permissions: "-rw-r--r--",
    owner: "user",
    group: "user",
    modifiedTime: "1970-01-01T00:00:01.500000001Z",
    metadata: { from: "test" },
  });
});

test("an empty listing is an empty message", async () => {
  expect(await list()).toMatchObject({ status: 200, json: {} });
});

test("a listing in many pieces is one message, in the binary encoding", async () => {
  agent.names = names(1_000);
  const response = await fetch(`${plane.url}/${LIST}`, {
    method: "POST",
    headers: { "content-type": "application/proto", "connect-protocol-version": "1", ...session.headers },
    body: new Uint8Array(toBinary(ListDirRequestSchema, create(ListDirRequestSchema, { path: "/home/user" }))),
  });
  expect(response.status).toBe(200);
  const { entries } = fromBinary(ListDirResponseSchema, new Uint8Array(await response.arrayBuffer()));
  expect(entries.map(({ name }: EntryInfo) => name)).toEqual([...names(1_000)]);
  expect(entries[7]).toMatchObject({ type: FileType.FILE, size: 5n, metadata: { from: "test" } });
});

test("a listing of over 16 MiB is refused with a clear error, and the guest is not read any further", async () => {
  agent.names = names(10_000_000, 30_000);
  for (let round = 1; round <= 10; round++) {
    const { status, json } = await list();
    expect(status).toBe(429);
    expect(json).toEqual({
      code: "resource_exhausted",
      message: "the listing has over 16 MiB: list a smaller depth, or its folders one by one",
    });
    // Every entry has its name twice.
    expect(agent.taken).toBeLessThan(round * 300);
    agent.names = names(10_000_000, 30_000);
  }
  agent.names = names(10);
  expect((await list()).status).toBe(200);
});

test("the listings that a sandbox has under way are bounded together", async () => {
  let open = () => {};
  agent.gate = new Promise((resolve) => {
    open = resolve;
  });
  const mebibytes = 12;
  agent.names = { [Symbol.iterator]: () => names(mebibytes * 16, 32_768) };
  const answers = Array.from({ length: 8 }, list);
  const settled = Promise.all(answers);
  // The last ones are refused while the gate holds the first ones.
  const refused = await Promise.any(
    answers.map(async (answer) => {
      const { status, json } = await answer;
      if (status === 200) throw new Error("not refused");
      return json;
    }),
  );
  expect(refused).toEqual({
    code: "resource_exhausted",
    message: "the sandbox's listings under way have over 64 MiB: ask for fewer at a time",
  });
  open();
  const statuses = (await settled).map(({ status }) => status);
  expect(statuses.filter((status) => status === 200).length).toBeGreaterThanOrEqual(4);
  expect(statuses.filter((status) => status === 429).length).toBeGreaterThanOrEqual(1);
  expect((await list()).status).toBe(200);
});

test("other requests are answered while long listings are encoded", async () => {
  agent.names = { [Symbol.iterator]: () => names(30_000) };
  const done: string[] = [];
  const listings = Array.from({ length: 3 }, () => list().then(() => done.push("listing")));
  for (let i = 0; i < 10; i++) {
    await callUnary(plane.url, "filesystem.Filesystem/Stat", { path: "/x" }, session.headers);
    done.push("stat");
  }
  await Promise.all(listings);
  expect(done.slice(0, 10)).toEqual(Array.from({ length: 10 }, () => "stat"));
});
